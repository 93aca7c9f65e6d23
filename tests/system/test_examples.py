"""The example of a saga in docs/examples/saga, with the very files that are there: orders that complete and orders that are refused, the booking once in
SQL and once as the plugin, and afterwards stock, places and money add up."""

import json
import os
import random

import pytest

from txbtest.plugin import build_plugin
from txbtest.program import ROOT, System
from txbtest.travel import Travel

EXAMPLE = os.path.join(ROOT, "docs", "examples", "saga")
SERVICES = ("stock", "booking", "bank")
IN_SQL = '"kind": "sql", "function": "booking.handle"'
ORDER = {"customer": "ann", "item": "lamp", "count": 1, "slot": "monday", "address": "1 Mill Lane"}
# What the tests put on top of the few things in the files, so that none of them takes away what another one needs.
MORE = {
    "stock": "UPDATE stock.item SET on_hand = 200 WHERE name = 'lamp'",
    "booking": "UPDATE booking.slot SET places = 1000 WHERE name = 'monday'; INSERT INTO booking.slot VALUES ('friday', 20)",
    "bank": "INSERT INTO bank.account VALUES ('cam', 40000), ('dot', 1000000)",
}


def read(name):
    with open(os.path.join(EXAMPLE, name), encoding="utf-8") as file:
        return file.read()


class Shop(Travel):
    """The example's four databases on shared servers: names of databases, topics and groups get a prefix, and processes have users of their own."""

    def __init__(self, booking, *args, **more):
        self.booking = booking
        super().__init__(*args, **more)

    def create(self):
        self.agency = f"{self.name}_shop"
        self.databases = {what: f"{self.name}_{what}" for what in SERVICES}
        for database in (self.agency, *self.databases.values()):
            self.create_database(database)
        System.create_users(self.postgres)
        for what, database in self.databases.items():
            with self.postgres.session(database) as connection, connection.cursor() as cursor:
                cursor.execute(read(f"{what}.sql"))
                cursor.execute(MORE[what])
        for group in json.loads(read("config.json"))["workers"]:
            for topic in group["topics"]:
                self.kafka.create_topic(f"{self.name}.{topic}", self.partitions)
        self.before = self.sums()

    def config(self, name="txbroker", group=None, **sections):
        text = read("config.json")
        if self.booking == "plugin":  # as the example's README does
            assert IN_SQL in text
            text = text.replace(IN_SQL, '"kind": "plugin", "path": "' + build_plugin(os.path.join(EXAMPLE, "participant.c")) + '"')
        content = json.loads(text)
        content["kafka"]["brokers"] = self.kafka.brokers
        for source in content["sources"]:
            source["database"] = self.postgres.uri(f"{self.name}_{source['name']}", "txbtest_relay")
        for worker in content["workers"]:
            worker["database"] = self.postgres.uri(f"{self.name}_{worker['database'].rpartition('/')[2]}", "txbtest_worker")
            worker.update(group=f"{self.name}.{worker['group']}", topics=[f"{self.name}.{topic}" for topic in worker["topics"]])
        content.update(sections)
        path = os.path.join(self.directory.path, f"{name}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        return path

    def definition(self, version=1, **changes):
        body = {**json.loads(read("order.json")), "version": version, **changes}
        body["steps"] = [{**step, "topic": f"{self.name}.{step['topic']}"} for step in body["steps"]]
        return body

    def order(self, name="order", **changes):
        """Starts one with a command and waits for its end: (state, reason, output)."""
        _, result, err = self.saga("start", name, "--input", json.dumps({**ORDER, **changes}), "--wait", "40s")
        assert result, err
        return result["state"], result.get("reason"), result.get("output")

    def orders(self, inputs):
        """Starts many in one transaction, as an application does; their ids."""
        with self.postgres.session(self.agency, user="txbtest_app") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT txb.saga_start('order', i::jsonb) FROM unnest(%s::text[]) WITH ORDINALITY AS u(i, n) ORDER BY n",
                           ([json.dumps({**ORDER, **body}) for body in inputs],))
            return [row[0] for row in cursor.fetchall()]

    def ask(self, what, sql):
        return self.postgres.query(self.databases[what], sql)

    def sums(self):
        """What no saga changes: of each item on hand and sold, of each slot free and taken, and all money."""
        return {
            "stock": sorted(self.ask("stock", "SELECT name, on_hand + coalesce((SELECT sum(count) FROM stock.reservation AS r WHERE r.item = i.name AND"
                                              " r.state = 'sold'), 0) FROM stock.item AS i")),
            "booking": sorted(self.ask("booking", "SELECT name, places + (SELECT count(*) FROM booking.delivery AS d WHERE d.slot = s.name)"
                                                  " FROM booking.slot AS s")),
            "bank": self.ask("bank", "SELECT sum(balance) FROM bank.account"),
        }

    def effects(self):
        """{saga: [what it did]}, sorted."""
        found = {}
        for what, sql in (("stock", "SELECT saga, state, count FROM stock.reservation"), ("booking", "SELECT saga, slot, 1 FROM booking.delivery"),
                          ("bank", "SELECT saga, payer, amount FROM bank.payment")):
            for saga, *effect in self.ask(what, sql):
                found.setdefault(saga, []).append((what, *effect))
        return {saga: sorted(effects) for saga, effects in found.items()}

    def check(self):
        """Nothing is stuck or reserved; a completed order did all of it, once, and any other one nothing; and the sums are as before."""
        code, listed, err = self.saga("list", "--state", "stuck")
        assert code == 0 and listed == {"sagas": []}, (listed, err)
        prices = dict(self.ask("stock", "SELECT name, price FROM stock.item"))
        wanted = {}
        for saga, body in self.query("SELECT s.id, s.input FROM txb.saga AS s JOIN txb.saga_end AS e ON e.saga_id = s.id WHERE e.state = 'completed'"):
            wanted[saga] = sorted([("stock", "sold", body["count"]), ("booking", body["slot"], 1),
                                   ("bank", body["customer"], body["count"] * prices[body["item"]])])
        assert self.effects() == wanted, f"TXB_SEED={self.seed}"
        assert self.ask("stock", "SELECT sum(reserved) FROM stock.item") == [(0,)]
        assert self.sums() == self.before
        taken = self.ask("bank", "SELECT (SELECT balance FROM bank.account WHERE name = 'shop'), coalesce(sum(amount), 0) FROM bank.payment")
        assert taken[0][0] == taken[0][1]


@pytest.fixture(scope="module", params=["sql", "plugin"])
def example(request, postgres, kafka, seed):
    made = Shop(request.param, postgres, kafka, seed)
    code, _, err = made.deploy(made.definition())
    assert code == 0, err
    made.start("run")
    yield made
    made.close()


@pytest.fixture
def shop(request, example):
    request.node.systems = [example]
    return example


def test_an_order_is_reserved_booked_paid_and_confirmed(shop):
    state, reason, output = shop.order(count=2)
    assert (state, reason) == ("completed", None) and output["price"] == 2400 and set(output) == {"price", "delivery", "payment"}
    shop.check()


@pytest.mark.parametrize("changes, reason", [
    ({"count": 500}, r"stock: out of stock: 500 wanted, "),
    ({"item": "harp"}, r"stock: no such item: harp"),
    ({"slot": "tuesday"}, r"delivery: no van is free: tuesday"),
    ({"customer": "ben"}, r"payment: ben has less than 1200"),
    ({"customer": "eve"}, r"payment: no two accounts: eve, shop"),
])
def test_an_order_that_is_refused_leaves_nothing(shop, changes, reason):
    state, why, output = shop.order(**changes)
    assert state == "compensated" and why.startswith(reason) and output is None
    shop.check()


def test_many_orders_for_what_is_not_enough_for_all(shop):
    rng = random.Random(shop.seed)
    ids = shop.orders({"item": rng.choice(["lamp", "lamp", "piano"]), "count": rng.randint(1, 2), "slot": rng.choice(["monday", "friday", "friday", "tuesday"]),
                       "customer": rng.choice(["ben", "cam", "dot", "dot"])} for _ in range(300))
    shop.wait_ended(ids)
    assert set(shop.states(ids)) == {"completed", "compensated"}
    why = " ".join(shop.result(saga)["reason"] or "" for saga in ids)
    for words in ("out of stock", "no van is free: friday", "no van is free: tuesday", "ben has less than"):
        assert words in why, f"{words} (TXB_SEED={shop.seed})"
    shop.check()


def test_money_that_was_taken_first_is_given_back(shop):
    """With the bank's compensation, which the order needs not, since it pays last."""
    stock, delivery, payment = shop.definition()["steps"]
    payment.update(kind="compensatable", compensation={"type": "bank.refund"}, after=["stock"])
    delivery.update(kind="pivot", after=["payment"])
    del delivery["compensation"]
    code, _, err = shop.deploy({**shop.definition(name="prepaid"), "steps": [stock, payment, delivery]})
    assert code == 0, err
    assert shop.order("prepaid", slot="tuesday")[:2] == ("compensated", "delivery: no van is free: tuesday")
    shop.check()
    assert shop.order("prepaid")[0] == "completed"
    shop.check()


@pytest.mark.parametrize("what", range(3), ids=SERVICES)
def test_a_command_that_a_participant_does_not_know_is_refused(shop, what):
    body = shop.definition(name=f"odd{what}", output={})
    step = body["steps"][what]
    body["steps"] = [{"name": step["name"], "kind": "pivot", "topic": step["topic"], "type": "what.ever"}]
    code, _, err = shop.deploy(body)
    assert code == 0, err
    state, why, _ = shop.order(body["name"])
    assert state == "compensated" and f"no command of the {SERVICES[what]}" in why
    shop.check()
