"""Whoever may create in schema public can make functions and operators that fit better than the server's own. What init, status, doctor, relay and worker run
must never be those: it would run with the rights of whoever runs them."""

import pytest

from txbtest import process
from txbtest.plugin import build_plugin
from txbtest.program import command

# Each says that it ran, and by whom. They fit better than pg_catalog's: format takes VARIADIC "any", and numeric * int needs a cast.
PLANTED = """
CREATE TABLE public.ran (what text, by text);
GRANT ALL ON public.ran TO PUBLIC;
CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.ran VALUES ('format', current_user); RETURN pg_catalog.format($1, $2, $3); END $$;
CREATE FUNCTION public.times(numeric, int) RETURNS numeric LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.ran VALUES ('numeric * int', current_user); RETURN $1 OPERATOR(pg_catalog.*) $2::numeric; END $$;
CREATE OPERATOR public.* (LEFTARG = numeric, RIGHTARG = int, FUNCTION = public.times);
CREATE FUNCTION public.times(double precision, int) RETURNS double precision LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.ran VALUES ('float8 * int', current_user); RETURN $1 OPERATOR(pg_catalog.*) $2::double precision; END $$;
CREATE OPERATOR public.* (LEFTARG = double precision, RIGHTARG = int, FUNCTION = public.times);
CREATE FUNCTION public.times(bigint, interval) RETURNS interval LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.ran VALUES ('bigint * interval', current_user); RETURN $1::double precision OPERATOR(pg_catalog.*) $2; END $$;
CREATE OPERATOR public.* (LEFTARG = bigint, RIGHTARG = interval, FUNCTION = public.times);
CREATE FUNCTION public.join(text, uuid) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.ran VALUES ('text || uuid', current_user); RETURN $1 OPERATOR(pg_catalog.||) $2::text; END $$;
CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = uuid, FUNCTION = public.join);
CREATE FUNCTION public.join(text, bigint) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.ran VALUES ('text || bigint', current_user); RETURN $1 OPERATOR(pg_catalog.||) $2::text; END $$;
CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = bigint, FUNCTION = public.join);
"""


def ran(postgres, database):
    return postgres.query(database, "SELECT DISTINCT what, by FROM public.ran")


def test_init_binds_and_runs_nothing_that_was_planted(postgres, systems, kafka):
    name = f"{systems(postgres, kafka).name}_planted"
    postgres.create_database(name)
    postgres.query(name, PLANTED)
    code, out, err = command("init", "--database", postgres.uri(name))
    assert code == 0, out + err
    postgres.query(name, "SET search_path = pg_catalog; SELECT txb.publish('t', 'k', 'made', '1')")
    assert ran(postgres, name) == []


def test_relay_status_and_doctor_run_nothing_that_was_planted(postgres, systems, kafka):
    system = systems(postgres, kafka)
    postgres.query(system.bank.source, PLANTED)
    system.relay()
    for account in range(1, 6):
        postgres.query(system.bank.source, "SET search_path = pg_catalog; SELECT bank.transfer(%s, 1, 1)", (account,))
    system.wait_published()
    sources = [{"name": system.name, "database": postgres.uri(system.bank.source)}]
    for looking in ("status", "doctor"):
        out = command("--config", system.config(name=looking, sources=sources, workers=[]), looking)[1]
        assert system.bank.source in out
    assert ran(postgres, system.bank.source) == []


@pytest.mark.parametrize("handler", [{"kind": "sql", "function": "bank.apply"}, {"kind": "sql", "function": "bank.apply_batch", "per": "batch"},
                                     {"kind": "sql", "function": "bank.short", "per": "batch"},
                                     {"kind": "plugin", "path": "bank_plugin.c", "argument": ""}], ids=["message", "batch", "too_few", "plugin"])
def test_a_worker_runs_nothing_that_was_planted(handler, postgres, systems, kafka):
    """The statements around the handler, which has the user's search_path. An inbox that remembers old ids makes the upkeep drop a day."""
    system = systems(postgres, kafka, worker={"inbox_keep_ms": 3_600_000})
    target = system.bank.target
    postgres.query(target, "CREATE FUNCTION bank.short(m txb.message[]) RETURNS SETOF txb.outcome LANGUAGE sql AS 'SELECT (txb.ok()).* LIMIT 0'")
    postgres.query(target, "SELECT txb.inbox_partition_make(30, 3)")
    postgres.query(target, "INSERT INTO txb.inbox (group_name, message_id) VALUES ('old', overlay('00000000-0000-7000-8000-000000000000' PLACING"
                   " overlay(lpad(to_hex(((extract(epoch FROM now()) - 20 * 86400) * 1000)::bigint), 12, '0') PLACING '-' FROM 9 FOR 0) FROM 1 FOR 13)::uuid)")
    postgres.query(target, PLANTED)
    if handler["kind"] == "plugin":
        handler = {**handler, "path": build_plugin(handler["path"])}
    worker = system.worker(worker={"handler": handler, "retry": {"first_ms": 20, "cap_ms": 200}})
    worker.wait_line("days of the inbox dropped")
    system.relay()
    for account in range(1, 6):
        postgres.query(system.bank.source, "SET search_path = pg_catalog; SELECT bank.transfer(%s, 1, 1)", (account,))
    if handler.get("function") == "bank.short":
        worker.wait_line("it must give one for each")
    else:
        process.wait_for(lambda: system.bank.applied() == 5, system.lag, 60, alive=system.alive)
    assert ran(postgres, target) == []
