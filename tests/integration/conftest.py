"""Fixtures of the integration tests: one real PostgreSQL for all, and for each test a database of its own with the
migrations of schemas/sql."""

import itertools
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "system"))
sys.path.insert(0, HERE)

# What they assert is told with its values, as in a test.
pytest.register_assert_rewrite("sqltest", "jobstest", "commandstest", "failedtest")

from sqltest import Database, make_logins, migrate  # pylint: disable=wrong-import-position
from txbtest.postgres import Postgres  # pylint: disable=wrong-import-position

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def server():
    """Without autovacuum: its locks would make a statement that gives up soon give up for no reason of the test's, and its statistics other plans. In memory:
    most of the time went by with the files of a thousand databases, and what the disk keeps is shown by the system tests."""
    with Postgres({"autovacuum": "off", "max_wal_size": "256MB"}, memory=True) as running:
        yield running


@pytest.fixture(scope="session")
def bare_template(server):
    """The name of a migrated database that nobody is connected to."""
    name = server.create_database("sql_bare")
    migrate(server, name)
    make_logins(server)
    return name


@pytest.fixture(scope="session")
def template(server, bare_template):
    """The same with partitions, of 1,000 numbers each: tests reach the ends of partitions."""
    name = server.create_database("sql_template", bare_template)
    server.query(name, "SELECT txb.partition_make(1000, 8), txb.inbox_partition_make(2, 2)")
    return name


def copy_of(server, template):
    name = f"sql_{next(NUMBERS)}"
    server.query("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
    database = Database(server, name)
    yield database
    database.close()
    server.query("postgres", f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def db(server, template):
    yield from copy_of(server, template)


@pytest.fixture
def bare(server, bare_template):
    """Without any partition: what a database is between the migrations and the first txb.partition_make."""
    yield from copy_of(server, bare_template)
