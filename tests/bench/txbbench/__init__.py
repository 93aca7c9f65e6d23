"""Measurements of txbroker on real servers: one module a measurement, `place` for what they stand on, `report` for what they say."""
