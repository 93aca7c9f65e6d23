"""What publishing costs the application: pgbench's transactions with an intent, with a plain row, with neither."""

import re

from txbbench.place import Lost
from txbbench.report import Figure

FORMS = (
    ("nothing", "cost_nothing.sql"),
    ("plain INSERT", "cost_plain.sql"),
    ("INSERT INTO txb.outbox", "cost_insert.sql"),
    ("txb.publish", "cost_publish.sql"),
)
CLIENTS = 8


def _tps(place, database, script, seconds):
    text = place.postgres.run(
        "pgbench",
        "-n",
        "-M",
        "prepared",
        "-c",
        str(CLIENTS),
        "-j",
        "2",
        "-T",
        str(seconds),
        "-f",
        place.sql_path(script),
        database,
    )
    found = re.search(r"^tps = ([0-9.]+)", text, re.MULTILINE)
    failed = re.search(r"^number of failed transactions: (\d+)", text, re.MULTILINE)
    if found is None or (failed and int(failed.group(1)) > 0):
        raise Lost(f"pgbench:\n{text}")
    return float(found.group(1))


def measure(place, options):
    database = place.migrated(place.fresh("cost"))
    rates = {name: [] for name, _ in FORMS}
    for _ in range(options.runs):
        for name, script in FORMS:
            rates[name].append(_tps(place, database, script, options.cost_seconds))
        place.say("  " + "  ".join(f"{name} {tps[-1]:,.0f}/s" for name, tps in rates.items()))
        place.check_servers()
    place.postgres.drop_database(database)
    what = f"application, {CLIENTS} clients, one UPDATE and"
    figures = [Figure(f"{what} {name}", "tx/s", rates[name], bare=rates["plain INSERT"]) for name, _ in FORMS]
    figures[0].note = "beside: the transaction with the plain INSERT of a row of the same columns and one index"
    return figures
