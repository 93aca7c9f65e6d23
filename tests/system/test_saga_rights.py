"""The rights in Kafka that the guide of sagas gives to each principal: with them sagas run, and no participant gives orders to another."""

import re

import pytest

from txbtest import process
from txbtest.kafka import Kafka
from txbtest.program import ROOT
from txbtest.travel import WHATS, Travel

PASSWORDS = {user: f"{user}-word" for user in ("agency", *WHATS, "boss")}


def guide_lines(travel):
    """Its lines of ACLs, for the topics and groups of this installation; those of flight for the other participants, too."""
    with open(f"{ROOT}/docs/guides/sagas.md", encoding="utf-8") as guide:
        block = re.search(r"```sh\nacls\(\).*?\n(.*?)```", guide.read(), re.DOTALL).group(1).replace("\\\n", " ")
    lines = [line.split()[1:] for line in block.splitlines()]
    assert len(lines) == 4 and all(line[0] == "--allow-principal" for line in lines), lines
    lines += [[word.replace("flight", what) for word in line] for line in lines if "User:flight" in line for what in WHATS if what != "flight"]
    names = {"sagas": travel.topic, **{f"{what}.commands": travel.topics[what] for what in WHATS}}
    groups = {name: f"{travel.name}.{name}" for name in ("sagas", *WHATS)}
    for line in lines:
        for n, word in enumerate(line[:-1]):
            if word in ("--topic", "--group"):
                line[n + 1] = (names if word == "--topic" else groups)[line[n + 1]]
    return lines


@pytest.fixture
def guarded(postgres, seed):
    with Kafka(sasl=PASSWORDS) as kafka:
        travel = Travel(postgres, kafka, seed)
        try:
            yield travel
        finally:
            travel.close()


def of(travel, user):
    """The section of the configuration with which a process is that principal."""
    return {"kafka": {"brokers": travel.kafka.sasl_brokers, "client": {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
                                                                       "sasl.username": user, "sasl.password": PASSWORDS[user]}}}


def test_the_rights_of_the_guide_are_enough_and_no_participant_commands_another(guarded):
    travel = guarded
    for line in guide_lines(travel):
        travel.kafka.tool("kafka.admin.AclCommand", "--add", *line)
    travel.kafka.tool("kafka.admin.AclCommand", "--add", "--allow-principal", "User:boss", "--operation", "Describe",
                      *[word for topic in travel.topics.values() for word in ("--topic", topic)])
    travel.commands = travel.config("commands", **of(travel, "boss"))
    travel.deployed("trip")
    travel.relay(travel.agency, **of(travel, "agency"))
    travel.worker("sagas", **of(travel, "agency"))
    for what in WHATS:
        travel.relay(travel.databases[what], **of(travel, what))
        travel.worker(what, **of(travel, what))
    ids = travel.begin(20, lambda n: {"refuse": "payment"} if n % 2 else {})
    travel.wait_ended(ids)
    assert travel.states(ids) == {"completed": 10, "compensated": 10}
    travel.check()
    # What flight's service publishes for hotel's stays with flight.
    flight, others = travel.databases["flight"], travel.topics["hotel"]
    before = travel.kafka.ends(others)
    travel.postgres.query(flight, "SELECT txb.publish(%s, 'k', 'hotel.book', '{}'::jsonb)", (others,), user="txbtest_app")
    process.wait_for(lambda: travel.postgres.query(flight, "SELECT topic FROM txb.relay_hold") == [(others,)], travel.logs_text, 60, alive=travel.alive)
    assert travel.kafka.ends(others) == before
