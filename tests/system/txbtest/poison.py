"""A bank of which two messages in a hundred are poison (poison.sql), the person who decides about those that are dead, and what must be true of them in the
end. Decisions are made with `txbroker failed`, as a person makes them."""

import collections
import json
import uuid

from txbtest.bank import sql_file
from txbtest.program import FAILED, command

KINDS = ("late", "again", "conflict", "cause", "data", "refused", "hopeless")
# What a person does about them; the others pass by themselves.
EDITED, MENDED, DISCARDED = ("data", "refused"), ("cause",), ("hopeless",)
TRANSIENT, FAILURES = ("late", "again"), 2  # they fail so often, whoever tries
OPEN = ("retrying", "held", "dead")


def kind_of(identity):
    """None: not poison. As in poison.sql."""
    code = uuid.UUID(str(identity)).bytes
    return None if int.from_bytes(code[14:], "big") % 50 else KINDS[code[13] % len(KINDS)]


def prepare(system):
    system.target_postgres.query(system.bank.target, sql_file("poison.sql"))


class Person:
    """Decides about dead messages of a System. `discarded`: the ids that were given up."""

    def __init__(self, system):
        self.system, self.discarded, self.decided = system, set(), collections.Counter()

    def query(self, sql, *args):
        return self.system.target_postgres.query(self.system.bank.target, sql, args or None)

    def states(self):
        return collections.Counter(dict(self.query("SELECT state, count(*) FROM txb.failed GROUP BY state")))

    def decide(self, chosen=lambda: True):
        """About those dead ones for which chosen() is true; returns how many."""
        by_kind = collections.defaultdict(list)
        for number, identity, payload, error_class in self.query("SELECT number, id::text, convert_from(payload, 'UTF8'), error_class FROM txb.failed WHERE state = 'dead'"):
            if chosen():
                by_kind["crash" if error_class == "crash" else kind_of(identity)].append((number, identity, payload))
        for kind, messages in by_kind.items():
            if kind in EDITED:
                for number, identity, payload in messages:
                    self._do("edit", [number], "--payload-file", "-", stdin=json.dumps({**json.loads(payload), "of": identity}).encode())
            elif kind in MENDED or kind == "crash":
                self.query("INSERT INTO bank.mended SELECT unnest(%s::uuid[]) ON CONFLICT DO NOTHING", [identity for _, identity, _ in messages])
                self._do("retry", [number for number, _, _ in messages])
            else:
                assert kind in DISCARDED, f"{kind} is dead: {messages}"
                if self._do("discard", [number for number, _, _ in messages]):
                    self.discarded.update(identity for _, identity, _ in messages)
        return sum(map(len, by_kind.values()))

    def _do(self, verb, numbers, *more, stdin=None):
        """False: a batch was under way for too long, and nothing was changed."""
        code, out, err = command("-d", self.system.target_postgres.uri(self.system.bank.target), "failed", verb, *map(str, numbers), "--yes", "--reason", "a test",
                                 *more, stdin=stdin)
        assert code == 0 or (code == FAILED and "try again" in err), f"failed {verb} {numbers}: exit {code}\n{out}{err}"
        self.decided[verb] += len(numbers) if code == 0 else 0
        return code == 0

    # -- in the end ------------------------------------------------------------------------------------------------------------

    def check(self, report):
        """Adds to the verifier's report what it does not know: what was set aside, and how often it was tried."""
        poison = {identity: kind_of(identity) for (identity,) in self.system.postgres.query(self.system.bank.source, "SELECT id::text FROM bank.journal")
                  if kind_of(identity)}
        rows = self.query("""
            SELECT f.id::text, f.state, f.replaces IS NOT NULL, count(*) FILTER (WHERE h.event = 'failed'), bool_or(h.event IN ('crashed', 'retry')),
                   bool_or(h.state = 'held')
              FROM txb.failed AS f JOIN txb.failed_history AS h USING (number) GROUP BY f.number""")
        failed = {identity: attempts for identity, _, copy, attempts, _, _ in rows if not copy}
        for identity, kind in poison.items():
            if kind != "conflict" and not failed.get(identity):
                report.add("L", f"{identity} ({kind}) never failed")
        for identity, _, _, attempts, touched, _ in rows:
            kind = poison.get(identity)
            if kind in TRANSIENT and not touched and attempts != FAILURES:
                report.add("D", f"{identity} ({kind}) failed {attempts} times instead of {FAILURES}")
            elif kind is None and attempts:
                report.add("P", f"{identity} is no poison, and failed {attempts} times")
        if {identity for identity, state, *_ in rows if state == "discarded"} != self.discarded:
            report.add("Q", f"not what was discarded: {len(self.discarded)}")
        counted = int(self.query("SELECT sum(failed) FROM txb.consumer_offset")[0][0])
        if counted != len(self.discarded):
            report.add("Q", f"failed is {counted}, {len(self.discarded)} were discarded")
        report.counts.update(poison=len(poison), set_aside=len(rows), held=sum(bool(held) for *_, held in rows),
                             crashed=self.query("SELECT count(*) FROM txb.failed_history WHERE event = 'crashed'")[0][0], **self.decided)
