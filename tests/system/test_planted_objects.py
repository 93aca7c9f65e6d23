"""Whoever may create in schema public can make functions and operators that fit better than the server's own. What init, status, doctor and the relay run
must never be those: it would run with the rights of whoever runs them."""

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
