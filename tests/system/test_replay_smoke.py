"""A replay job, from its start by SQL to its end: what a second group has not seen is applied to it once and in the order of each key."""

from txbtest import process

INTENTS = 10_000
KEYS = 50


def publish(system):
    """Intents of KEYS keys in turn, numbered within each, in statements of a thousand."""
    with system.postgres.session(system.bank.source) as connection, connection.cursor() as cursor:
        for first in range(0, INTENTS, 1000):
            cursor.execute("SELECT count(txb.publish(%s, (i %% %s)::text, 'transfer.made', jsonb_build_object('to', 1 + i %% %s, 'amount', 1, 'n', i / %s)))"
                           " FROM generate_series(%s, %s) AS i", (system.bank.topics[0], KEYS, KEYS, KEYS, first, first + 999))


def start_job(system, group, seq_to, then_live=False):
    return system.target_postgres.value(system.bank.target, """
        SELECT number FROM txb.job_start(NULL, %s, %s, %s, NULL, NULL, NULL, NULL, 1, %s, false, %s, NULL, 'smoke', 'test')""",
                                        (group, system.name, [system.bank.topics[0]], seq_to, then_live))


def job_state(system):
    return system.target_postgres.value(system.bank.target, "SELECT state FROM txb.job")


def test_a_range_is_applied_once_and_in_order_to_a_group_that_has_not_seen_it(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    publish(system)
    system.wait_published()
    # The group begins behind what there is, so that only the replay can bring it.
    ends = {partition: end for partition, (_, end) in kafka.ends(system.bank.topics[0]).items()}
    postgres.query(system.bank.target, "SELECT txb.offset_register(%s, %s, %s, %s, NULL)",
                   (system.group, system.bank.topics[0], list(ends.keys()), list(ends.values())))
    start_job(system, system.group, system.relay_row()["watermark"] + 1)
    worker = system.worker()
    process.wait_for(lambda: job_state(system) == "done", system.lag, 60, alive=system.alive)
    assert system.bank.applied() == INTENTS
    out_of_order = "SELECT count(*) FROM (SELECT n, lag(n, 1, -1::bigint) OVER (PARTITION BY key ORDER BY ord) AS before FROM bank.applied) AS a WHERE n <> before + 1"
    assert postgres.value(system.bank.target, out_of_order) == 0
    assert postgres.query(system.bank.target, "SELECT consumed, applied, duplicate, failed FROM txb.consumer_offset WHERE partition < 0") == [
        (INTENTS, INTENTS, 0, 0)]
    # Behind it the group goes on live, and knows what it has.
    system.bank.transfer()
    process.wait_for(lambda: system.bank.applied() == INTENTS + 1, system.lag, 60, alive=system.alive)
    assert worker.stop() == 0, worker.text()


def test_a_projection_is_built_by_a_replay_and_then_goes_on_live(systems, postgres, kafka):
    system = systems(postgres, kafka)
    system.relay()
    publish(system)
    system.wait_published()
    start_job(system, system.group, None, then_live=True)
    worker = system.worker()
    process.wait_for(lambda: job_state(system) == "done", system.lag, 60, alive=system.alive)
    worker.wait_line("waiting for the group")
    system.bank.transfer()
    system.wait_rest()
    assert system.bank.applied() == INTENTS + 1
    assert postgres.value(system.bank.target, "SELECT count(DISTINCT id) FROM bank.applied") == INTENTS + 1
    assert worker.stop() == 0, worker.text()
