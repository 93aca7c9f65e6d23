"""The source's own rules (rules.py): the tree keeps them, and each one catches a violation planted in a small tree."""

from pathlib import Path

import pytest
import rules

ROOT = Path(__file__).resolve().parents[2]

FAULTS = '/* faults */\nconst char *const txb_failpoint_names[] = {"relay.after_poll", NULL};\nconst char *const txb_bug_names[] = {"no_epoch", NULL};\n'
USES = '/* uses */\nvoid f(void) {\n  txb_failpoint("relay.after_poll");\n  if (txb_bug("no_epoch"))\n    return;\n}\n'


def tree(tmp_path, files):
    """A clean small tree with these files put over it."""
    for name, text in {"common/fault.c": FAULTS, "outbox/relay.c": USES, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return rules.Tree(tmp_path)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps(rule):
    assert list(rule(rules.Tree(ROOT))) == []


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_clean_tree_passes(rule, tmp_path):
    assert list(rule(tree(tmp_path, {}))) == []


PLANTED = [
    (rules.arrows, "common/a.c", '/* a */\n#include "outbox/relay.h"\n'),
    (rules.arrows, "outbox/a.c", '/* a */\n#  include "consumer/worker.h"\n'),
    (rules.arrows, "consumer/a.h", '/* a */\n#include "broker/cli/command.h"\n'),
    (rules.arrows, "consumer/a.h", "/* a */\n#include <broker/cli/command.h>\n"),
    (rules.arrows, "common/a.c", '/* a */\n#include "outbox_sql.h"\n'),
    (rules.arrows, "include/txbroker/a.h", '/* a */\n#include "common/slice.h"\n'),
    (rules.arrows, "broker/cli/a.c", '/* a */\n#include "tests/sim/world.h"\n'),
    (rules.arrows, "outbox/fault.c", '/* a */\n#include "relay.c"\n'),
    (rules.native_types, "outbox/a.c", "/* a */\n#include <libpq-fe.h>\n"),
    (rules.native_types, "common/log.c", "/* a */\n#include <librdkafka/rdkafka.h>\n"),
    (rules.native_types, "broker/cli/a.c", "/* a */\n#include <postgresql/libpq-fe.h>\n"),
    (rules.pure_cores, "outbox/relay_core.c", '/* a */\n#include "common/clock.h"\n'),
    (rules.pure_cores, "consumer/worker_core.h", "/* a */\n#include <time.h>\n"),
    (rules.banned_calls, "outbox/a.c", "/* a */\nvoid f(char *d) {\n  strcpy(d, g());\n}\n"),
    (rules.banned_calls, "broker/cli/a.c", '/* a */\nint f(void) {\n  return system ("ls");\n}\n'),
    (rules.banned_calls, "tests/unit/a.c", "/* a */\nvoid f(void) {\n  usleep(10);\n}\n"),
    (rules.banned_calls, "tests/system/test_a.py", "import time\ntime.sleep(1)\n"),
    (rules.assembled_sql, "outbox/a.c", '/* a */\nvoid f(void) {\n  format("SELECT 1 FROM %s", t);\n}\n'),
    (rules.assembled_sql, "broker/cli/a.c", '/* a */\nvoid f(void) {\n  format("DROP TABLE "\n         "txb.%s", t);\n}\n'),
    (rules.fault_names, "outbox/a.c", '/* a */\nvoid f(void) {\n  txb_failpoint("relay.unheard_of");\n}\n'),
    (rules.fault_names, "outbox/a.c", '/* a */\nvoid f(void) {\n  if (txb_bug("unheard_of"))\n    return;\n}\n'),
    (rules.fault_names, "outbox/a.c", "/* a */\nvoid f(const char *name) {\n  txb_failpoint(name);\n}\n"),
    (rules.fault_names, "common/fault.c", FAULTS.replace('"no_epoch"', '"no_epoch", "unused"')),
    (rules.fault_names, "common/fault.c", FAULTS.replace('"relay.after_poll"', '"relay.after_poll", "relay.after_poll"')),
    (rules.machine_paths, "docs/a.md", "Run /home/jane/bin/txbroker.\n"),
    (rules.machine_paths, "tests/system/a.py", 'JARS = "/root/jars"\n'),
    (rules.leftovers, "common/a.c", "/* a */\n/* TODO: errors */\n"),
    (rules.sizes, "common/a.c", "/* a */\n" + "int x;\n" * 701),
    (rules.sizes, "tests/unit/a.c", "/* a */\n" + "int x;\n" * 901),
    (rules.machine_paths, "tests/unit/a.c", '/* a */\nconst char *path = "/tmp/jars";\n'),
    (rules.headings, "common/a.c", "int x;\n"),
]


@pytest.mark.parametrize("rule,name,text", PLANTED, ids=[f"{rule.__name__}-{number}" for number, (rule, _, _) in enumerate(PLANTED)])
def test_a_planted_violation_is_caught(rule, name, text, tmp_path):
    found = list(rule(tree(tmp_path, {name: text})))
    assert len(found) == 1 and found[0].startswith(name if name != "docs/a.md" else "docs/"), found


def test_every_rule_is_proved():
    assert {rule for rule, _, _ in PLANTED} == set(rules.RULES)


INNOCENT = [
    ("common/a.c", '/* strcpy( and system( in words */\nconst char *s = "never sprintf(";\n'),
    ("common/pg_conn.c", "/* a */\n#include <libpq-fe.h>\n"),
    ("consumer/a.c", '/* a */\n#include "outbox/relay.h"\n#include "outbox_sql.h"\n#include "txbroker/error.h"\n'),
    ("outbox/a.c", '/* a */\nvoid f(void) {\n  h->system(1);\n  txb_sleep(1);\n  format("SELECT of %d failed: %d", a, b);\n  fail("no right: GRANT SELECT ON %s TO %s", t, r);\n}\n'),
    ("tests/unit/a.c", '/* a */\nchar path[] = "/tmp/txb_a_XXXXXX";\n'),
    ("docs/a.md", "See https://example.org/home/x and $HOME/work/x.\n"),
]


@pytest.mark.parametrize("name,text", INNOCENT, ids=[name for name, _ in INNOCENT])
def test_what_is_allowed_is_not_reported(name, text, tmp_path):
    planted = tree(tmp_path, {name: text})
    assert [place for rule in rules.RULES for place in rule(planted)] == []


def test_a_private_header_of_a_port_does_not_leak(tmp_path):
    planted = tree(tmp_path, {"common/kafka_conf.h": "/* a */\n#include <librdkafka/rdkafka.h>\n",
                              "outbox/a.c": '/* a */\n#include "common/kafka_conf.h"\n'})
    assert len(list(rules.native_types(planted))) == 1
