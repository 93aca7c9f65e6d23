"""Measurements of txbroker on real servers: `place` is what they stand on, `report` what they say."""
