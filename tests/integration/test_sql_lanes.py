"""A lane of a replay job beside the live partitions of its topic: the fence, the held keys, runs, and old ids."""

import uuid

import pytest
from failedtest import item
from jobstest import ONE, RETRY_OPEN, TWO, Part, aside, claim, counters, failed, lanes, moved, register, start, start_kafka
from sqltest import ROOT, V7, migrations, refused


@pytest.fixture
def live(db):
    """Partition 0, taken by a worker."""
    register(db.root)
    return Part(db.session("worker"), 0)


def lane_of(db, live, topic="t", **more):
    """The lane of a job that is begun now, taken by another worker."""
    start(db.root, topics=[topic], **more)
    worker = db.session("worker")
    (row,) = [row for row in claim(worker, TWO) if row["topic"] == topic]
    part = Part(worker, -row["lane"], topic, TWO)
    part.lane, part.run = row["lane"], row["run"]
    part.keys()
    return part


@pytest.fixture
def lane(db, live):
    return lane_of(db, live)


# -- the fence ------------------------------------------------------------------------------------


def test_a_live_batch_and_a_batch_of_a_lane_exclude_each_other(db, live, lane):
    live.open(5, 5).finish()
    running = lane.open(10, 2)
    db.wait_until_waiting(lane.session)
    live.close(5, 5, 0)
    running.finish()
    running = live.open(6, 1)
    db.wait_until_waiting(live.session)
    lane.close(10, 2, 0)
    running.finish()
    live.close(6, 1, 0)
    assert counters(db, 0) == (6, 6, 0, 0, 0) and counters(db, -lane.lane) == (2, 2, 0, 0, 0)


def test_retries_of_a_lane_and_live_batches_exclude_each_other(db, live, lane):
    lane.batch(10, aside(3))
    lane.mark()
    live.open(5, 5).finish()
    lane.session.do("BEGIN")
    running = lane.session.start("SELECT txb.retry_open('g', 't', %s, %s, %s)", -lane.lane, lane.epoch, lane.marked_version)
    db.wait_until_waiting(lane.session)
    live.close(5, 5, 0)
    running.finish()


def test_lanes_lock_in_one_order_and_never_each_other_for_good(db, live, lane):
    """Its own row first, then the live ones upwards, as a person's decision does."""
    second = Part(db.session("worker"), 1)
    second.open(3, 3).finish()
    running = lane.open(10, 2)
    db.wait_until_waiting(lane.session)
    waits = live.open(5, 5)
    db.wait_until_waiting(live.session)
    second.close(3, 3, 0)
    running.finish()
    lane.close(10, 2, 0)
    waits.finish()
    live.close(5, 5, 0)


def test_other_topics_and_groups_are_not_waited_for(db, live, lane):
    register(db.root, "u")
    db.root.do("SELECT txb.offset_register('h', 't', '{0}', '{0}', 'c1')")
    other = Part(db.session("worker"), 0, "u")
    other.open(5, 5).finish()
    db.root.do("BEGIN; UPDATE txb.consumer_offset SET updated_at = now() WHERE group_name = 'h'")
    lane.batch(10, applied=2)
    db.root.do("ROLLBACK")
    other.close(5, 5, 0)


def test_a_lane_that_was_taken_over_is_fenced(db, live, lane):
    db.root.do("UPDATE txb.job_lane SET lease_until = now() - interval '1 s'")
    other = db.session("worker")
    assert lanes(other, ONE) == [lane.lane]
    Part(other, -lane.lane, instance=ONE)
    with refused("TXB01", "txb.batch_open"):
        lane.open(10, 2).finish()


def test_a_partition_below_zero_without_a_lane_runs_nothing(db, live):
    db.root.do(
        "INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, epoch) VALUES ('g', 't', -4711, 0, 0)"
    )
    part = Part(db.session("worker"), -4711)
    with refused("TXB01", "lane 4711 does not go on: there is no such lane"):
        part.open(1, 1).finish()


def test_a_lane_belongs_to_no_kafka_cluster(db, live, lane):
    assert db.root.do("SELECT partition >= 0, cluster_id FROM txb.consumer_offset WHERE partition <> 1 ORDER BY 1") == [
        (False, None),
        (True, "c1"),
    ]


# -- keys that are held live ----------------------------------------------------------------------


def test_a_lane_knows_the_keys_that_are_held_live(db, live, lane):
    live.batch(2, aside(0), aside(1, state="held"))
    Part(live.session, 1).batch(1, aside(0, b"z"))
    lane.keys()
    lane.batch(10, aside(4, b"own"))
    assert lane.keys() == {b"k": 2, b"z": 1, b"own": 1}
    assert live.keys() == {b"k": 2}, "what a lane holds is its own"


def test_a_key_that_the_live_worker_takes_or_frees_sends_the_lane_back(db, live, lane):
    """Its own version does not tell: a worker knows what it did itself."""
    live.batch(1, aside(0))
    with refused("TXB05", "txb.batch_open: keys changed"):
        lane.open(10, 2).finish()
    lane.session.do("ROLLBACK")
    assert lane.keys() == {b"k": 1}
    live.batch(2, aside(1, state="held"))
    lane.batch(10, applied=2)  # no other key
    while failed(db, 0):
        live.mark()
        live.settle()
    with refused("TXB05", "keys changed"):
        lane.open(11, 1).finish()
    lane.session.do("ROLLBACK")
    assert lane.keys() == {}
    live.batch(3, aside(2, state="dead"))
    lane.keys()
    db.session("admin").do("SELECT txb.failed_discard(ARRAY(SELECT max(number) FROM txb.failed), 'hal', 'x')")
    with refused("TXB05", "keys changed"):
        lane.open(11, 1).finish()


def test_a_key_taken_while_a_lane_waits_for_the_live_batch_is_seen(db, live, lane):
    """W2: the version is read when the locks are had."""
    live.open(1, 1).finish()
    live.add(aside(0))
    running = lane.open(10, 2)
    db.wait_until_waiting(lane.session)
    live.close(1, 0, 1)
    with refused("TXB05", "keys changed"):
        running.finish()


def test_the_versions_that_a_worker_is_told_agree(db, live, lane):
    live.batch(1, aside(0))
    lane.keys()
    told = lane.version
    with open(f"{ROOT}/consumer/sql/worker_lookup.sql", encoding="utf-8") as text:
        lane.session.do("PREPARE lookup AS " + text.read())
    assert lane.session.do("EXECUTE lookup('g', 't', %s)", -lane.lane) == [(1, 2, told)]
    assert lane.take(TWO)["keys_version"] == told
    lane.mark(0)
    assert lane.marked_version == told


def test_what_comes_behind_a_key_that_is_held_live_goes_behind_it_in_order(db, live, lane):
    live.batch(2, aside(0), aside(1, state="held"))
    live.keys()
    version = db.root.one("SELECT keys_version FROM txb.consumer_offset WHERE topic = 't' AND partition = 0")
    lane.keys()
    lane.batch(10, aside(4, state="held"), aside(5, b"j"), aside(6, state="held"), aside(7, b"j", "held"), applied=3)
    assert failed(db, 0) == [(0, "retrying", 0), (1, "held", 0), (4, "held", 0), (6, "held", 0)]
    assert failed(db, -lane.lane) == [(5, "retrying", 0), (7, "held", 0)]
    assert counters(db, 0) == (4, 0, 0, 4, 3)
    assert counters(db, -lane.lane) == (5, 3, 0, 2, 1)
    assert moved(db, lane.lane) == 2
    assert db.root.one("SELECT keys_version FROM txb.consumer_offset WHERE topic = 't' AND partition = 0") == version + 1
    with refused("TXB05"):
        live.open(3, 1).finish()
    live.session.do("ROLLBACK")
    assert live.keys() == {b"k": 4}
    assert live.mark() == [(0, 0)]
    assert live.settle() == set()
    assert live.mark() == [(1, 0), (4, 0), (6, 0)]
    assert live.settle() == {b"k"}
    assert counters(db, 0) == (4, 4, 0, 0, 0)


def test_a_lane_is_not_sent_back_by_what_it_moved_itself(db, live, lane):
    live.batch(1, aside(0))
    lane.keys()
    lane.batch(10, aside(4, state="held"))
    lane.batch(12, aside(10, state="held"))
    assert [row[0] for row in failed(db, 0)] == [0, 4, 10] and moved(db, lane.lane) == 2
    told = lane.version
    lane.keys()
    assert lane.version == told


def test_the_live_worker_runs_what_was_moved_under_the_run_of_its_job(db, live):
    """Rows of one go are of one run, and a key's order stands over runs."""
    forced = lane_of(db, live, forced=True)
    live.batch(1, aside(0))
    forced.keys()
    forced.batch(10, aside(4, state="held"), aside(5, state="held"))
    live.keys()
    live.batch(2, aside(1, state="held"))
    assert failed(db, 0) == [(0, "retrying", 0), (4, "held", forced.run), (5, "held", forced.run), (1, "held", 0)]
    order = []
    while failed(db, 0):
        order.append(live.mark())
        live.settle()
    assert order == [[(0, 0)], [(4, forced.run), (5, forced.run)], [(1, 0)]]
    assert counters(db, 0) == (4, 4, 0, 0, 0) and counters(db, -forced.lane) == (0, 0, 0, 0, 0)


def test_heads_of_two_runs_are_given_out_one_run_at_a_time(db, live):
    forced = lane_of(db, live, forced=True)
    live.batch(2, aside(0), aside(1, b"j"))
    forced.keys()
    forced.batch(10, aside(4, state="held"))
    live.keys()
    live.mark(1)
    live.settle()  # of k: the lane's message is the head now
    db.root.do("UPDATE txb.failed SET next_attempt_at = now() - interval '1 h' WHERE \"offset\" = 4")
    assert live.mark() == [(4, forced.run)]
    live.settle()
    assert live.mark() == [(1, 0)]


def test_a_decision_about_a_head_lets_a_lane_s_message_behind_it_follow(db, live):
    forced = lane_of(db, live, forced=True)
    live.batch(1, aside(0, state="dead"))
    forced.keys()
    forced.batch(10, aside(4, state="held"))
    admin = db.session("admin")
    shown = admin.row("SELECT * FROM txb.failed_show((SELECT number FROM txb.failed WHERE \"offset\" = 0))")
    assert shown["behind"] == 1
    admin.do('SELECT txb.failed_discard(ARRAY(SELECT number FROM txb.failed WHERE "offset" = 0), \'hal\', \'x\')')
    assert failed(db, 0) == [(4, "retrying", forced.run)]
    assert counters(db, 0)[4] == 0


def test_a_message_that_waits_there_itself_gets_no_second_row(db, live, lane):
    live.batch(2, aside(0), aside(1, state="held"))
    lane.keys()
    lane.batch(10, aside(7, state="held", id=aside(1)["id"]), aside(8, state="held"))
    assert failed(db, 0) == [(0, "retrying", 0), (1, "held", 0), (8, "held", 0)]
    assert counters(db, 0) == (3, 0, 0, 3, 2) and counters(db, -lane.lane) == (0, 0, 0, 0, 0)
    assert moved(db, lane.lane) == 2


def test_what_a_person_has_discarded_stays_so_though_a_lane_that_reads_kafka_comes_with_it(db, live, lane):
    live.batch(2, aside(0, state="dead"), aside(1, b"j", state="dead"))
    number = db.root.one('SELECT number FROM txb.failed WHERE "offset" = 0')
    db.session("admin").do("SELECT txb.failed_discard(ARRAY[%s::bigint], 'hal', 'x')", number)
    closed = db.root.row("SELECT * FROM txb.failed WHERE number = %s", number)
    before = db.root.one("SELECT count(*) FROM txb.failed_history")
    live.keys()
    live.batch(3, aside(2, state="dead"))
    lane.keys()
    version = lane.version
    lane.batch(3, aside(0, state="held"), aside(2, state="held"), aside(5, state="held"), aside(6, b"i"))
    assert db.root.row("SELECT * FROM txb.failed WHERE number = %s", number) == closed
    assert db.root.one("SELECT count(*) FROM txb.failed_history") == before + 3  # of 2, 5 and 6
    assert failed(db, 0) == [(1, "dead", 0), (2, "dead", 0), (5, "held", 0)] and failed(db, -lane.lane) == [(6, "retrying", 0)]
    assert counters(db, 0) == (4, 0, 0, 4, 1) and counters(db, -lane.lane) == (2, 0, 1, 1, 0)
    assert moved(db, lane.lane) == 2 and lane.keys() and lane.version == version


def test_a_forced_run_of_a_message_that_waits_there_gets_its_own_row(db, live):
    forced = lane_of(db, live, forced=True)
    live.batch(1, aside(0))
    forced.keys()
    forced.batch(10, aside(7, state="held", id=aside(0)["id"]))
    assert failed(db, 0) == [(0, "retrying", 0), (7, "held", forced.run)] and moved(db, forced.lane) == 1


def test_a_key_that_the_lane_holds_itself_keeps_its_messages_in_the_lane(db, live, lane):
    lane.batch(5, aside(3))
    live.batch(1, aside(0))
    lane.keys()
    lane.batch(10, aside(6, state="held"))
    assert failed(db, -lane.lane) == [(3, "retrying", 0), (6, "held", 0)] and failed(db, 0) == [(0, "retrying", 0)]
    assert moved(db, lane.lane) == 0
    lane.mark()
    assert lane.settle() == set()
    lane.mark()
    assert lane.settle() == set(), "its own are done, but the key is held live"
    lane.keys()
    lane.batch(12, aside(10, state="held"))
    assert failed(db, 0) == [(0, "retrying", 0), (10, "held", 0)]


def test_behind_a_message_that_the_lane_sets_aside_itself_the_next_stay_with_it(db, live, lane):
    """Condemned without being run, though its key is held live."""
    live.batch(1, aside(0))
    lane.keys()
    lane.batch(10, aside(4, state="held"), aside(5, state="dead"), aside(6, state="held"))
    assert [row[:2] for row in failed(db, 0)] == [(0, "retrying"), (4, "held")]
    assert [row[:2] for row in failed(db, -lane.lane)] == [(5, "dead"), (6, "held")] and moved(db, lane.lane) == 1


def test_a_key_that_is_free_again_is_not_waited_for(db, live, lane):
    """Whoever set it aside as held was right when it read the keys; the version would have told."""
    lane.batch(10, aside(4, state="held"))
    assert failed(db, -lane.lane) == [(4, "retrying", 0)] and moved(db, lane.lane) == 0


def test_the_lower_of_two_partitions_that_hold_a_key_gets_the_message(db, live, lane):
    Part(live.session, 1).batch(1, aside(0))
    live.batch(1, aside(0))
    lane.keys()
    lane.batch(10, aside(4, state="held"))
    assert [row[0] for row in failed(db, 0)] == [0, 4] and [row[0] for row in failed(db, 1)] == [0]


def test_a_cut_batch_counts_what_it_moved(db, live, lane):
    live.batch(1, aside(0))
    lane.keys()
    lane.open(50, 10).finish()
    lane.add(aside(4, state="held"), aside(5, b"j"))
    lane.session.do("SELECT txb.batch_cut('g', 't', %s, 9, 4, NULL, NULL)", -lane.lane)
    lane.close(9, 2, 2)
    assert counters(db, -lane.lane) == (3, 2, 0, 1, 0) and counters(db, 0) == (2, 0, 0, 2, 1)


def test_what_is_undone_is_undone_on_both_sides(db, live, lane):
    live.batch(1, aside(0))
    lane.keys()
    lane.open(10, 1).finish()
    lane.add(aside(4, state="held"))
    lane.session.do("ROLLBACK")
    assert counters(db, 0) == (1, 0, 0, 1, 0) and moved(db, lane.lane) == 0 and [r[0] for r in failed(db, 0)] == [0]


def test_a_thousand_messages_of_many_keys_find_their_places(db, live, lane):
    live.batch(100, *[aside(n, b"k%d" % n) for n in range(100)])
    lane.keys()
    keys = [(1000 + n, n % 200) for n in range(1000)]
    lane.batch(2000, *[aside(n, b"k%d" % key, "held" if key < 100 else "dead", holds=key < 100) for n, key in keys])
    assert moved(db, lane.lane) == 500 and counters(db, 0) == (600, 0, 0, 600, 500)
    assert counters(db, -lane.lane) == (500, 0, 0, 500, 0)


# -- the inbox ------------------------------------------------------------------------------------

OLD = uuid.UUID("0190163d-8694-739b-aea5-966c26f8ad91")
INBOX = "INSERT INTO txb.inbox (group_name, run, message_id) VALUES ('g', %s, %s) ON CONFLICT DO NOTHING RETURNING message_id"


@pytest.fixture
def forgotten(db):
    """The inbox has dropped what is older than two days."""
    db.root.do("SELECT txb.inbox_partition_drop(interval '2 days')")


def test_a_plain_replay_of_what_was_forgotten_is_refused(db, live, forgotten, lane):
    lane.open(10, 1).finish()
    with refused("23514", f"message {OLD} is older than what the inbox remembers", '"inbox_horizon"'):
        lane.session.do(INBOX, 0, OLD)
    lane.session.do("ROLLBACK")
    with refused("23514", "inbox_horizon"):
        live.session.do(INBOX, 0, OLD)
    assert db.root.one("SELECT count(*) FROM txb.inbox") == 0


def test_a_forced_run_applies_what_was_forgotten_once(db, live, forgotten):
    forced = lane_of(db, live, forced=True)
    forced.open(10, 1).finish()
    assert forced.session.do(INBOX, forced.run, OLD) == [(OLD,)]
    forced.close(10, 1, 0)
    assert forced.session.do(INBOX, forced.run, OLD) == []
    with refused("23514", "inbox_horizon"):
        forced.session.do(INBOX, 0, OLD)


def test_a_group_that_is_rebuilt_applies_what_was_forgotten_in_its_lane_only(db, live, forgotten):
    rebuilt = lane_of(db, live, topic="new", then_live=True)
    rebuilt.session.do("SELECT txb.lane_pass(%s, %s, '{0}', '{5}', 'c1', 50)", rebuilt.lane, TWO)
    with refused("23514", "inbox_horizon"):
        rebuilt.session.do(INBOX, 0, OLD)
    rebuilt.open(10, 1).finish()
    assert rebuilt.session.do(INBOX, 0, OLD) == [(OLD,)]
    with refused("23514", "inbox_horizon"):
        live.session.do(INBOX, 0, uuid.UUID(int=OLD.int + 1))
    rebuilt.close(10, 1, 0)
    with refused("23514", "inbox_horizon"):
        rebuilt.session.do(INBOX, 0, uuid.UUID(int=OLD.int + 1))
    rebuilt.keys()
    rebuilt.batch(20, aside(12))
    rebuilt.mark()
    rebuilt.session.do("BEGIN")
    rebuilt.session.do(
        "SELECT txb.retry_open('g', 'new', %s, %s, %s)", -rebuilt.lane, rebuilt.epoch, rebuilt.marked_version
    )
    assert rebuilt.session.do(INBOX, 0, uuid.UUID(int=OLD.int + 2)) != []


def test_a_database_that_had_forgotten_before_jobs_came_goes_on_refusing(server):
    name = server.create_database("forgetful")
    steps = [text for _, _, text in migrations()]
    first = next(n for n, text in enumerate(steps) if "CREATE TABLE txb.job " in text)
    with server.session(name, autocommit=False) as connection, connection.cursor() as cursor:
        for text in steps[:first]:
            cursor.execute(text)
        cursor.execute("SELECT txb.inbox_partition_make(5, 2), txb.inbox_partition_drop(interval '2 days')")
        for text in steps[first:]:
            cursor.execute(text)
        connection.commit()
        cursor.execute(INBOX, (7, OLD))
        assert cursor.fetchall() == [(OLD,)]
        with refused("23514", "inbox_horizon"):
            cursor.execute(INBOX, (0, OLD))
        connection.rollback()
    server.drop_database(name)


def test_no_day_is_dropped_that_a_job_still_needs(db, live, lane):
    drop = "SELECT txb.inbox_partition_drop(interval '1 hour')"
    worker = db.session("worker")
    for state in ("running", "paused"):
        db.root.do("UPDATE txb.job SET state = %s", state)
        assert worker.one(drop) == 0 and worker.one("SELECT txb.inbox_horizon()::text") == "-infinity"
    db.root.do("UPDATE txb.job SET created_at = now() - interval '8 days', state_at = created_at")
    assert worker.one(drop) == 0, "its lane is served"
    db.root.do("UPDATE txb.job SET state_at = now() - interval '8 days'")
    db.root.do("UPDATE txb.job_lane SET lease_until = now() - interval '8 days'")
    assert worker.one(drop) > 0, "nobody has looked at it for a week"


def test_a_finished_job_needs_no_day(db, live, lane):
    db.session("admin").do("SELECT txb.job_cancel((SELECT number FROM txb.job), 'hal', 'enough')")
    assert db.session("worker").one("SELECT txb.inbox_partition_drop(interval '1 hour')") > 0


def test_what_a_forced_run_remembers_of_old_days_goes_with_the_next_drop(db, live, forgotten):
    forced = lane_of(db, live, forced=True)
    forced.session.do(INBOX, forced.run, OLD)
    db.session("admin").do("SELECT txb.job_cancel((SELECT number FROM txb.job), 'hal', 'enough')")
    assert db.root.one("SELECT count(*) FROM txb.inbox_default") == 1
    db.session("worker").do("SELECT txb.inbox_partition_drop(interval '1 hour')")
    assert db.root.one("SELECT count(*) FROM txb.inbox_default") == 0


def test_a_discarded_message_of_a_forced_run_is_forgotten_in_that_run_only(db, live, forgotten):
    forced = lane_of(db, live, forced=True)
    forced.batch(10, aside(4, id=OLD))
    db.session("admin").do("SELECT txb.failed_discard(ARRAY(SELECT number FROM txb.failed), 'hal', 'x')")
    assert db.root.do("SELECT run, message_id FROM txb.inbox") == [(forced.run, OLD)]


# -- lanes that go to a topic, and workers that don't know them -------------------------------------

COPY = ("SELECT count(*) FROM txb.job_republish(ARRAY(SELECT ROW('bank', %s, 't', p, 1, 'k', 'made', now(), 'x', NULL, NULL, 1)::txb.message "
        "FROM unnest(%s::int[]) AS p))")


@pytest.fixture
def to_topic(db, live):
    """The lane of a job that writes to a topic."""
    db.root.do("INSERT INTO txb.relay (source, epoch) VALUES ('here', 1)")
    return lane_of(db, live, to_topic="copies")


def test_a_worker_of_before_is_given_no_lane_whose_messages_it_would_run(db, live):
    db.root.do("INSERT INTO txb.relay (source, epoch) VALUES ('here', 1)")
    register(db.root, "u")
    register(db.root, "v")
    numbers = [start(db.root, topics=["t"], to_topic="copies")[0], start_kafka(db.root, ("u", 0, 0, 9))[0], start(db.root, topics=["v"])[0]]
    old, new = db.session("worker"), db.session("worker")
    assert [row["job"] for row in claim(old, lanes_max=1, copies=False)] == numbers[2:], "and the others don't count as its own"
    assert [row["job"] for row in claim(old, lanes_max=3, copies=False)] == numbers[2:]
    assert [row["job"] for row in claim(new, TWO)] == numbers[:2]
    part = Part(new, -claim(new, TWO)[0]["lane"], "t", TWO)
    part.keys()
    part.batch(10, aside(9, b"a"))
    db.root.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", numbers[0])
    db.root.do("UPDATE txb.failed SET next_attempt_at = now() - interval '1 s'")
    db.root.do("UPDATE txb.job_lane SET lease_until = now() - interval '1 s' WHERE instance = %s", TWO)
    assert [row["job"] for row in claim(old, copies=False)] == numbers[2:], "not for what failed there either"
    assert numbers[0] in [row["job"] for row in claim(new, TWO)]


def test_messages_go_to_a_topic_only_within_a_batch_of_their_lane(db, to_topic):
    session = to_topic.session
    with refused("TXB03", "txb.job_republish: no batch of group \"g\" is open"):
        session.do(COPY, V7, [to_topic.partition])
    db.root.do("SELECT txb.job_cancel((SELECT max(number) FROM txb.job), 'hal', 'enough')")
    with refused("TXB03", "txb.job_republish: no batch"):
        session.do(COPY, V7, [to_topic.partition])
    assert db.root.one("SELECT count(*) FROM txb.outbox") == 0


def test_a_batch_and_a_retry_of_a_lane_write_to_its_topic(db, to_topic):
    session = to_topic.session
    to_topic.open(10, 1).finish()
    assert session.do(COPY, V7, [to_topic.partition]) == [(1,)]
    with refused("22023", "more than one partition"):
        session.do(COPY, V7, [to_topic.partition, 0])
    session.do("ROLLBACK")
    to_topic.batch(10, aside(9, b"a"))
    db.root.do("UPDATE txb.failed SET next_attempt_at = now() - interval '1 s'")
    to_topic.mark()
    with refused("TXB03", "txb.job_republish: no batch"):
        session.do(COPY, V7, [to_topic.partition])
    session.do("BEGIN")
    session.do(RETRY_OPEN, "t", to_topic.partition, to_topic.epoch, to_topic.marked_version)
    assert session.do(COPY, V7, [to_topic.partition]) == [(1,)]
    session.do("ROLLBACK")


@pytest.mark.parametrize("copies", [True, False])
def test_what_dies_on_its_way_to_a_topic_is_no_dead_message_of_the_group(db, live, copies):
    db.root.do("INSERT INTO txb.relay (source, epoch) VALUES ('here', 1)")
    db.root.do("SELECT txb.group_register('g', 'letters')")
    lane = lane_of(db, live, to_topic="copies" if copies else None)
    lane.batch(10, item(offset=9, key=b"K", state="dead", holds=True, attempts=1, error_class="dead", error="a circle"))
    assert db.root.do("SELECT topic FROM txb.outbox") == ([] if copies else [("letters",)])
