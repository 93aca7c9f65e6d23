"""Fixtures of the tests that need real servers: private PostgreSQL and Kafka, running programs, workloads and an independent verifier.

Nothing here uses txbroker's own code: what the verifier says is said by psycopg2 and confluent_kafka alone.
"""
