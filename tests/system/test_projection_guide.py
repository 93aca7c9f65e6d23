"""The guide for rebuilding a projection, done as it is written: its own statements, configuration and commands, in their order, on a real PostgreSQL and
Kafka, while writers go on. Only addresses and the name of the topic are put in."""

import json
import os
import re
import shlex

import pytest

from txbtest import process
from txbtest.bank import QUICK, Writers
from txbtest.program import ROOT, Program, System, command

GUIDE = os.path.join(ROOT, "docs", "guides", "rebuild-a-projection.md")


def steps():
    """(language, text) of the code blocks of the section "Step by step", in their order."""
    with open(GUIDE, encoding="utf-8") as file:
        section = re.search(r"^## Step by step\n(.*?)^## ", file.read(), re.M | re.S).group(1)
    return re.findall(r"^```(\w*)\n(.*?)^```$", section, re.M | re.S)


def typed(block):
    """(words of a command line, the lines that the guide shows as its answer) of a block of commands."""
    for part in re.findall(r"^\$ (.*\n(?:(?!\$ ).*\n)*)", block, re.M):
        line, *answer = part.splitlines()
        program, *words = shlex.split(line)
        assert program == "txbroker", line
        yield words, answer


def pattern(shown):
    """A line of the guide as an expression: its numbers are those of the day that it was written on; nothing but zero is zero."""
    words = []
    for word in re.findall(r"\[#+\]|\d+ ms|\d[\d.]*|\w[\w-]*|\s+|.", shown.strip()):
        kind = "bar" if word.startswith("[#") else "time" if word.endswith(" ms") else "number" if word[0].isdigit() and word != "0" else None
        words.append({"bar": r"\[#+\]", "time": r"[\d.]+ (?:ms|s|min)", "number": r"\d[\d.]*"}.get(kind, re.escape(word)))
    return "^ *" + "".join(words) + " *$"


def shows(text, answer):
    """That the lines of the guide stand in the text, in their order; "..." stands for any."""
    lines = iter(text.splitlines())
    for shown in answer:
        if shown.strip() != "...":
            assert any(re.match(pattern(shown), line) for line in lines), f"the guide shows\n{shown}\nwhich is not there, or not in this place:\n{text}"


class Reader:
    """Does what the guide says, on one installation."""

    def __init__(self, system):
        self.system, self.job = system, None
        self.config = os.path.join(system.directory.path, "guide.json")
        self.env = {"TXB_CONFIG": self.config}

    def query(self, sql):
        return self.system.target_postgres.query(self.system.bank.target, sql)

    def write(self, text):
        """The configuration of the guide, whose databases, brokers and topic are those of the test. Returns it."""
        places = {"postgresql:///shop": self.system.postgres.uri(self.system.bank.source),
                  "postgresql:///ledger": self.system.target_postgres.uri(self.system.bank.target),
                  "127.0.0.1:9092": self.system.brokers, "orders": self.system.bank.topics[0]}
        for written, real in places.items():
            assert f'"{written}"' in text, f"the guide's configuration no longer has {written}"
            text = text.replace(f'"{written}"', f'"{real}"')
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)
        return json.loads(text)

    def start(self, *words):
        """A worker, which goes on beside all else."""
        program = Program("-".join(words), list(words), self.system.directory, self.env)
        self.system.programs.append(program)
        return program

    def run(self, words, answer):
        """A command that ends; what it prints is what the guide shows. The number of the job is the one that was told when it was started."""
        words = [str(self.job) if re.fullmatch(r"\d+", word) else word for word in words]
        code, out, err = command(*words, env=self.env, timeout_s=180)
        assert (code, err) == (0, ""), f"{words}: exit {code}\n{out}{err}{self.system.lag()}"
        shows(out, [line.replace("orders", self.system.bank.topics[0]) for line in answer])
        if words[:2] == ["replay", "start"]:
            self.job = int(re.search(r"^job (\d+) is started", out, re.M).group(1))


@pytest.fixture
def shop(request, postgres, kafka, seed):
    """The installation of the guide: its source is named as there, and what it publishes has an account and an amount."""
    system = System(postgres, kafka, "shop", seed, accounts=40, relay={"checkpoint_ms": 1000})
    request.node.systems = [system]
    try:
        for function in ("bank.transfer", "bank.bulk"):
            text = postgres.value(system.bank.source, "SELECT pg_get_functiondef(%s::regproc)", (function,))
            assert "'to', p_to" in text
            postgres.query(system.bank.source, text.replace("'to', p_to", "'account', p_to"))
        yield system
    finally:
        system.close()


def test_the_guide_as_it_is_written_while_writers_go_on(shop, seed):
    (_, table), (_, configuration), *commands = blocks = steps()
    assert [language for language, _ in blocks] == ["sql", "json", "", ""], "the guide has other steps than this test knows"
    reader = Reader(shop)
    old = "balances"

    # What there is when the guide begins: the projection that is to be replaced, in use, and a history longer than one pass may be at the end.
    reader.query(table.replace("balances_2", old))
    reader.write(configuration)
    shop.relay("relay")
    reader.start("worker", old)
    Writers(shop.bank, 4, seed, QUICK, operations=20, user="txbtest_app").start().join()
    shop.bank.bulk(12_000, 1000)
    shop.wait_published()

    def changes(name):
        return reader.query(f"SELECT coalesce(sum(changes), 0) FROM {name}")[0][0]

    def wait_more(name, count):
        goal = changes(name) + count
        process.wait_for(lambda: changes(name) >= goal, lambda: f"{name} to go on: {changes(name)} of {goal}\n{shop.lag()}", 120, alive=shop.alive)

    with Writers(shop.bank, 4, seed + 1, {**QUICK, "held": 3}, pause_s=0.01, held_s=0.2, user="txbtest_app") as writers:
        reader.query(table)
        groups = {worker["group"] for worker in reader.write(configuration)["workers"]}
        for words, answer in (step for _, block in commands for step in typed(block)):
            if words[0] == "worker":
                groups.remove(words[1])
                shop.group = words[1]
                reader.start(*words)
            else:
                reader.run(words, answer)
        assert groups == {old} and reader.query("SELECT state FROM txb.job WHERE number = %d" % reader.job) == [("done",)]
        wait_more("balances_2", 200)  # live, by Kafka
        wait_more(old, 1)  # which serves until the switch
        writers.alive()

    shop.wait_rest()
    wanted = shop.postgres.query(shop.bank.source, "SELECT account::bigint, sum(amount)::bigint, count(*) FROM bank.journal GROUP BY 1 ORDER BY 1")
    assert reader.query("SELECT account, balance, changes FROM balances_2 ORDER BY account") == wanted
    assert reader.query("SELECT state FROM txb.failed") == []
    by_kafka = reader.query(f"SELECT sum(applied) FROM txb.consumer_offset WHERE group_name = '{shop.group}' AND partition >= 0")[0][0]
    assert by_kafka > 0, "everything came by the job: nothing was live"

    # "Switch, when you have compared them."
    shop.group = old
    shop.wait_consumed()
    assert reader.query(f"SELECT account, balance, changes FROM {old} ORDER BY account") == wanted
