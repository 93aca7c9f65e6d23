"""Fixtures of the system tests. Servers are shared by all tests that leave them standing; a test that kills a server has its own."""

import os
import random
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from txbtest.kafka import Kafka  # pylint: disable=wrong-import-position
from txbtest.postgres import Postgres  # pylint: disable=wrong-import-position
from txbtest.program import System  # pylint: disable=wrong-import-position
from txbtest.travel import Travel  # pylint: disable=wrong-import-position

SEED = int(os.environ.get("TXB_SEED") or random.SystemRandom().randrange(1, 1_000_000))
os.environ["TXB_SEED"] = str(SEED)  # the same one for processes that run a part of the tests (pytest -n)
TALLY = {"kills": 0, "kills at work": 0}


def pytest_report_header():
    return f"TXB_SEED={SEED} (set it to run the same schedules again)"


def pytest_terminal_summary(terminalreporter):
    if TALLY["kills"]:
        terminalreporter.write_line(f"kills: {TALLY['kills']}, of which hit work under way: {TALLY['kills at work']}")


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = TALLY


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for name, count in getattr(node, "workeroutput", {}).get("tally", {}).items():
        TALLY[name] += count


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """For several processes (pytest -n, --dist loadgroup): tests that share a fixture of their module stay together in one of them and come first, since they
    take long as a whole; each of the others goes to the process that is free next. What is started by hand keeps its order."""
    shared = {item: any(definition.scope == "module" for definitions in item._fixtureinfo.name2fixturedefs.values() for definition in definitions)
              for item in items}
    for item in items:
        if shared[item]:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
    if items and hasattr(items[0].config, "workerinput"):
        items.sort(key=lambda item: not shared[item])  # a stable sort


@pytest.fixture(scope="session")
def seed():
    return SEED


@pytest.fixture(scope="session")
def tally():
    """Counts over all tests, printed at the end."""
    return TALLY


@pytest.fixture(scope="session")
def servers():
    """Both, the slow one started first."""
    with Kafka(start=False).start(wait=False) as kafka_server, Postgres() as postgres_server:
        kafka_server.wait_ready()
        yield postgres_server, kafka_server


@pytest.fixture(scope="session")
def postgres(servers):
    return servers[0]


@pytest.fixture(scope="session")
def kafka(servers):
    return servers[1]


@pytest.fixture
def systems(request):
    """Makes Systems that end with the test: systems(postgres, kafka, ...). The first is named after the test."""
    made = []

    def make(postgres, kafka, **options):
        name = f"s{len(NAMES)}"
        NAMES.append(request.node.name)
        system = System(postgres, kafka, name, options.pop("seed", SEED), **options)
        made.append(system)
        return system

    request.node.systems = made
    yield make
    for system in made:
        system.close()


@pytest.fixture
def travels(request, postgres, kafka):
    """Makes installations for sagas that end with the test: travels(...)."""
    made = request.node.systems = []

    def make(**options):
        made.append(Travel(postgres, kafka, SEED, **options))
        return made[-1]

    yield make
    for travel in made:
        travel.close()


@pytest.fixture(scope="module")
def agency(postgres, kafka):
    """An installation whose coordinator, participants and relays run in one process, for all tests of a module that leave it alone."""
    made = Travel(postgres, kafka, SEED, group={"retry": {"first_ms": 20, "cap_ms": 100}})
    made.start("run")
    yield made
    made.close()


@pytest.fixture
def travel(request, agency):
    request.node.systems = [agency]
    return agency


NAMES = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows the last lines of every process that it ran."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for system in getattr(item, "systems", ()):
            for name, text in system.logs():
                report.sections.append((f"log of {name}", text))
