"""Replay jobs: starting them, deciding about them, who serves their lanes, and how a rebuilt group goes on live."""

import pytest
from jobstest import LEASE_MS, ONE, TWO, Part, aside, audit, claim, end, expire, job, lanes, register, start
from sqltest import refused


@pytest.fixture
def admin(db):
    """The group stands in two partitions of topics t and u."""
    register(db.root)
    register(db.root, "u")
    return db.session("admin")


@pytest.fixture
def worker(db):
    return db.session("worker")


# -- starting -------------------------------------------------------------------------------------


def test_a_job_has_a_lane_per_topic_that_begins_at_the_range(db, admin):
    number, existed = start(admin, topics=["u", "t", "u"], seq_from=7, keys=[b"b", b"a"], types=["made"], rate_max=50)
    assert not existed
    row = job(db, number)
    assert (row["state"], row["topics"], row["seq_from"], row["seq_to"], row["run"]) == ("running", ["t", "u"], 7, 100, 0)
    assert [bytes(key) for key in row["keys"]] == [b"a", b"b"] and row["rate_max"] == 50
    assert (row["created_by"], row["os_user"], row["state_by"]) == ("login_admin", "hal", "login_admin (hal)")
    assert db.root.do(
        "SELECT l.topic, l.seq_from, l.seq_to, c.next_offset, c.epoch FROM txb.job_lane AS l JOIN txb.consumer_offset AS c "
        "ON c.group_name = 'g' AND c.topic = l.topic AND c.partition = -l.lane ORDER BY l.lane"
    ) == [("t", 7, 100, 7, 0), ("u", 7, 100, 7, 0)]
    assert audit(db) == [("replay start", "hal", "lost")]
    filter = db.root.one("SELECT filter FROM txb.audit")
    assert (filter["job"], filter["keys"], filter["topics"], filter["seq_to"]) == (number, ["a", "b"], ["t", "u"], 100)


def test_a_forced_job_runs_under_its_own_number(db, admin):
    number, _ = start(admin, forced=True)
    assert job(db, number)["run"] == number


@pytest.mark.parametrize(
    "wrong,text",
    [
        ({"topics": []}, "at least one topic is needed"),
        ({"topics": None}, "at least one topic is needed"),
        ({"topics": ["t", ""]}, "a topic is empty"),
        ({"topics": ["t", None]}, "a topic is empty"),
        ({"group_name": ""}, "the group is needed"),
        ({"source": None}, "the source is needed"),
        ({"name": "x" * 256}, "the name has 1 to 255 bytes"),
        ({"keys": []}, "the list of keys is empty"),
        ({"types": [None]}, "the list of types is empty"),
        ({"seq_from": 100}, "the range is empty: it goes from 100 to below 100"),
        ({"seq_from": -1}, "is not negative"),
        ({"seq_from": None}, "the first number of the range is needed"),
        ({"seq_to": None}, "the end of the range is needed"),
        (
            {"time_from": "2026-01-02 00:00:00+00", "time_to": "2026-01-02 00:00:00+00"},
            "the range of times is empty: it goes from 2026-01-02 00:00:00 UTC",
        ),
        ({"rate_max": 0}, "the rate is 0 messages a second, at least 1 is needed"),
        ({"forced": True, "reason": " "}, "a reason is needed for a forced job"),
        ({"forced": True, "then_live": True}, "a job that goes on live can't be forced"),
        ({"then_live": True, "types": ["made"]}, "a job that goes on live takes no keys, types or end"),
    ],
)
def test_what_says_nothing_clear_is_refused(db, admin, wrong, text):
    with refused("22023", text):
        start(admin, **wrong)
    assert db.root.one("SELECT count(*) FROM txb.job") == 0 and audit(db) == []


def test_a_group_must_stand_where_it_is_replayed_into_and_nowhere_where_it_is_rebuilt(db, admin):
    with refused("55000", 'group "g" has no position in topic "new"', "--then-live"):
        start(admin, topics=["t", "new"])
    with refused("55000", 'group "g" has a position in topic "t" already', "Give the rebuilt group another name"):
        start(admin, topics=["t", "new"], then_live=True)
    start(admin, topics=["new"], then_live=True)
    # A lane is no position of the group.
    db.root.do("UPDATE txb.job SET state = 'cancelled', finished_at = now()")
    with refused("55000", 'group "g" has no position in topic "new"'):
        start(admin, topics=["new"])


def test_two_jobs_of_a_group_never_work_on_one_topic(db, admin):
    number, _ = start(admin, name="nightly", topics=["t"])
    texts = ('another job of group "g" is at work on topic "t"', f'job {number} ("nightly") is', "login_admin (hal)")
    with refused("55000", *texts, "is running since 20", f"replay cancel {number}"):
        start(admin, topics=["t", "u"], seq_from=200, seq_to=300)
    admin.do("SELECT txb.job_pause(%s, 'ann')", number)
    with refused("55000", *texts[:2], "is paused since 20", "login_admin (ann)"):
        start(admin, topics=["u", "t"])
    start(admin, topics=["u"])
    admin.do("SELECT txb.job_cancel(%s, 'ann', 'enough')", number)
    assert start(admin)[1] is False


def test_two_who_start_at_once_do_not_both_get_it(db, admin):
    other = db.session("admin")
    admin.do("BEGIN")
    first, _ = start(admin)
    running = other.start(
        "SELECT txb.job_start(NULL, 'g', 'bank', '{t}', NULL, NULL, NULL, NULL, 1, 9, false, false, NULL, NULL, 'ann')"
    )
    db.wait_until_waiting(other)
    admin.do("COMMIT")
    with refused("55000", f"job {first} is running"):
        running.finish()


def test_a_name_starts_one_job(db, admin):
    words = {"name": "nightly", "topics": ["u", "t"], "keys": [b"k"], "types": ["made"], "time_from": "2026-01-01"}
    number, existed = start(admin, **words)
    assert not existed
    assert start(admin, **{**words, "topics": ["t", "u"], "rate_max": 5, "reason": "other"}) == (number, True)
    for wrong in ({"seq_to": 101}, {"keys": None}, {"topics": ["t"]}, {"time_from": None}, {"forced": True}, {"source": "x"}):
        with refused("55000", 'the name "nightly" is taken by a job that says something else', f"replay show {number}"):
            start(admin, **{**words, **wrong})
    admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", number)
    assert start(admin, **words) == (number, True), "whatever became of it"
    assert [row[0] for row in audit(db)] == ["replay start", "replay cancel"]


def test_two_who_start_one_name_at_once_get_one_job(db, admin):
    other = db.session("admin")
    admin.do("BEGIN")
    number, _ = start(admin, name="nightly", seq_to=9, reason=None)
    running = other.start(
        "SELECT number, existed FROM txb.job_start('nightly', 'g', 'bank', '{t}', NULL, NULL, NULL, NULL, 1, 9, false, "
        "false, NULL, NULL, 'ann')"
    )
    db.wait_until_waiting(other)
    admin.do("COMMIT")
    assert running.finish() == [(number, True)]


def test_ten_forced_jobs_over_one_range_look_like_a_loop(db, admin):
    for n in range(10):
        number, _ = start(admin, forced=True, seq_from=50, seq_to=60)
        end(db, admin, number, messages=n % 2, moved=1 - n % 2)  # what waits behind a live key is run, too
    texts = ("10 forced jobs have run messages of this range", "this looks like a loop", "txbroker audit list")
    with refused("55000", *texts):
        start(admin, forced=True, seq_from=59, seq_to=70)
    for other in ({"seq_from": 60, "seq_to": 70}, {"topics": ["u"]}, {"source": "shop"}, {"forced": False}):
        number, _ = start(admin, **{"forced": True, "seq_from": 50, "seq_to": 60, **other})
        admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", number)
    db.root.do("UPDATE txb.job SET created_at = now() - interval '31 days' WHERE number = (SELECT min(number) FROM txb.job)")
    start(admin, forced=True, seq_from=59, seq_to=60)


def test_forced_jobs_of_other_keys_and_types_are_no_loop(db, admin):
    def once(**more):
        end(db, admin, start(admin, forced=True, **more)[0])

    for n in range(11):
        once(keys=[b"%d" % n])
    for n in range(11):
        once(keys=[b"one"], types=[f"made.{n}"])
    for _ in range(9):
        once(keys=[b"0", b"x"])
    refusal = (
        "SELECT problem FROM txb.job_refusal('g', 'bank', NULL, '{t}', 1, 100, true, false, NULL, NULL, NULL, NULL, NULL, "
        "%s::bytea[], %s::text[])"
    )
    for keys, types in (([b"0"], None), ([b"a", b"x", b"0"], ["made.0"]), (None, ["any"])):
        assert "looks like a loop" in admin.one(refusal, keys, types), keys
        with refused("55000", "forced jobs have run messages of this range", "this looks like a loop"):
            start(admin, forced=True, keys=keys, types=types)
    assert admin.one(refusal, [b"x"], None) is None, "nine have run it"
    once(keys=[b"x"])
    with refused("55000", "10 forced jobs have run messages of this range"):
        start(admin, forced=True, keys=[b"x"])
    once(keys=[b"one"], types=["made.0"])


def test_forced_jobs_that_ran_nothing_of_a_range_are_no_loop(db, admin):
    for _ in range(11):
        end(db, admin, start(admin, forced=True)[0], messages=0)
    for _ in range(10):
        end(db, admin, start(admin, forced=True)[0], position=50)
    end(db, admin, start(admin, forced=True, seq_from=50)[0])
    with refused("55000", "10 forced jobs have run messages of this range"):
        start(admin, forced=True, seq_from=49, seq_to=50)


# -- the audit of its end -------------------------------------------------------------------------

ENDS = "SELECT action, role, person, matched, changed, filter -> 'results', reason FROM txb.audit WHERE filter -> 'job' = to_jsonb(%s) ORDER BY number"


def lane_counts(db, number):
    """Two lanes of 7 + 3 messages, one of which is dead, at their ends."""
    lane, other = [row[0] for row in db.root.do("SELECT lane FROM txb.job_lane WHERE job = %s ORDER BY lane", number)]
    count = "UPDATE txb.consumer_offset SET next_offset = 100, consumed = %s, applied = %s, duplicate = %s, failed = %s WHERE partition = %s"
    db.root.do(count, 7, 4, 2, 1, -lane)
    db.root.do(count, 3, 3, 0, 0, -other)
    db.root.do("UPDATE txb.job_lane SET moved = 5 WHERE lane = %s", lane)
    add = ("INSERT INTO txb.failed (side, state, group_name, topic, partition, \"offset\", id, place, attempts, error_class, error, holds) "
           "SELECT 'consumer', 'dead', 'g', topic, partition, 7, txb.uuid_v7(), 0, 1, 'error', 'x', false FROM txb.consumer_offset WHERE partition = %s")
    db.root.do(add, -lane)


RESULTS = {"consumed": 10, "applied": 7, "duplicate": 2, "failed": 1, "moved": 5, "retrying": 0, "held": 0, "dead": 1}


def test_a_job_that_ends_says_what_became_of_its_messages_in_the_audit_once(db, admin):
    register(db.root, "u")
    number, _ = start(admin, topics=["t", "u"])
    assert db.root.do(ENDS, number) == [("replay start", "login_admin", "hal", None, 0, None, "lost")], "it isn't known yet"
    worker, other = db.session("worker"), db.session("worker")
    lane_counts(db, number)
    worker.do("BEGIN")
    claim(worker)
    ended = db.root.do(ENDS, number)
    assert len(ended) == 1 and job(db, number)["state"] == "running", "neither is there without the other"
    worker.do("ROLLBACK")
    assert len(db.root.do(ENDS, number)) == 1 and job(db, number)["state"] == "running"
    claim(other, TWO, owner="w2")
    claim(worker)
    assert job(db, number)["state"] == "done"
    assert db.root.do(ENDS, number)[1:] == [("replay done", "login_admin", "hal", 10, 7, RESULTS, "lost")]


def test_a_cancelled_job_says_what_became_of_its_messages_in_the_audit(db, admin):
    register(db.root, "u")
    number, _ = start(admin, topics=["t", "u"])
    lane_counts(db, number)
    for command in ("pause(%s, 'ann')", "resume(%s, 'ann')", "rate(%s, 5, 'ann')"):
        admin.do(f"SELECT txb.job_{command}", number)
    admin.do("SELECT txb.job_cancel(%s, 'ann', 'enough')", number)
    rows = db.root.do(ENDS, number)
    assert [(row[0], *row[3:6]) for row in rows[1:-1]] == [(f"replay {verb}", None, 0, None) for verb in ("pause", "resume", "rate")]
    assert rows[-1] == ("replay cancel", "login_admin", "ann", 10, 7, RESULTS, "enough")
    claim(db.session("worker"))
    assert len(db.root.do(ENDS, number)) == len(rows), "it has ended"


# -- deciding -------------------------------------------------------------------------------------


def test_a_job_is_paused_resumed_and_cancelled_with_its_audit(db, admin):
    number, _ = start(admin)
    admin.do("SELECT txb.job_pause(%s, 'ann', 'night')", number)
    assert (job(db, number)["state"], job(db, number)["state_by"]) == ("paused", "login_admin (ann)")
    with refused("55000", f"job {number} is paused since 20", "UTC: login_admin (ann)", "Nothing is to be done."):
        admin.do("SELECT txb.job_pause(%s, 'hal')", number)
    admin.do("SELECT txb.job_resume(%s, 'hal')", number)
    with refused("55000", f"job {number} is running since 20", "login_admin (hal)", "Nothing is to be done."):
        admin.do("SELECT txb.job_resume(%s, 'ann')", number)
    for reason in (None, "", " \n"):
        with refused("22023", "to cancel a job a reason is needed"):
            admin.do("SELECT txb.job_cancel(%s, 'hal', %s)", number, reason)
    admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", number)
    assert job(db, number)["state"] == "cancelled" and job(db, number)["finished_at"] is not None
    for command in ("pause(%s, 'ann')", "resume(%s, 'ann')", "cancel(%s, 'ann', 'x')", "rate(%s, 5, 'ann')"):
        with refused("55000", f"job {number} is cancelled since 20", "login_admin (hal)", "It is finished"):
            admin.do(f"SELECT txb.job_{command}", number)
    assert audit(db) == [
        ("replay start", "hal", "lost"),
        ("replay pause", "ann", "night"),
        ("replay resume", "hal", None),
        ("replay cancel", "hal", "enough"),
    ]


def test_a_job_that_is_not_there_is_told(admin):
    for command in ("pause(7, 'x')", "resume(7, 'x')", "cancel(7, 'x', 'y')", "rate(7, 5, 'x')", "show(7)"):
        with refused("P0002", "there is no job 7"):
            admin.do(f"SELECT txb.job_{command}")
    with refused("P0002", "there is no job null"):
        admin.do("SELECT txb.job_show(NULL)")


def test_two_who_decide_at_once_are_told_who_was_first(db, admin):
    number, _ = start(admin)
    other = db.session("admin")
    admin.do("BEGIN")
    admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", number)
    running = other.start("SELECT txb.job_pause(%s, 'ann')", number)
    db.wait_until_waiting(other)
    admin.do("COMMIT")
    with refused("55000", "is cancelled since", "login_admin (hal)"):
        running.finish()


def test_who_decides_and_stays_open_is_waited_for_five_seconds_only(db, admin):
    number, _ = start(admin)
    other = db.session("admin")
    admin.do("BEGIN")
    admin.do("SELECT txb.job_pause(%s, 'hal')", number)
    with refused("55P03", f"somebody has been deciding about job {number}", "try again"):
        other.do("SELECT txb.job_pause(%s, 'ann')", number)


def test_the_rate_is_changed_and_taken_away(db, admin, worker):
    number, _ = start(admin, topics=["t", "u"], rate_max=100)
    assert [row["rate_max"] for row in claim(worker)] == [50, 50], "shared by the lanes"
    admin.do("SELECT txb.job_rate(%s, 1, 'hal')", number)
    assert [row["rate_max"] for row in claim(worker)] == [1, 1]
    admin.do("SELECT txb.job_rate(%s, NULL, 'hal')", number)
    assert [row["rate_max"] for row in claim(worker)] == [None, None]
    with refused("22023", "the rate is 0 messages a second"):
        admin.do("SELECT txb.job_rate(%s, 0, 'hal')", number)
    assert [row[0] for row in audit(db)][1:] == ["replay rate", "replay rate"]


# -- asking ---------------------------------------------------------------------------------------


def test_a_job_is_shown_with_its_lanes_and_their_sums(db, admin, worker):
    number, _ = start(admin, name="nightly", topics=["t", "u"], keys=[b"k", b"\xff"], forced=True)
    (first, second) = lanes(worker)
    part = Part(worker, -first, instance=ONE)
    part.keys()
    part.batch(21, aside(7), aside(8, state="held"), aside(9, b"z", "dead"), applied=3)
    worker.do("SELECT txb.lane_error(%s, %s, 'no source')", second, ONE)
    shown = db.session("reader").one("SELECT txb.job_show(%s)", number)
    expected = {"number": number, "name": "nightly", "state": "running", "topics": ["t", "u"], "forced": True, "run": number}
    assert expected.items() <= shown.items() and shown["keys"] == ["k", "\\xff"]
    sums = {"span": 198, "covered": 20, "consumed": 6, "applied": 3, "duplicate": 0, "failed": 3, "moved": 0}
    assert sums.items() <= shown.items()
    assert (shown["retrying"], shown["held"], shown["dead"]) == (1, 1, 1) and shown["age_ms"] >= 0
    one, two = shown["lanes"]
    assert {"lane": first, "topic": "t", "position": 21, "seq_to": 100, "owner": "w1", "last_error": None}.items() <= one.items()
    assert 0 < one["lease_ms"] <= LEASE_MS and not one["done"]
    assert (two["lane"], two["position"], two["last_error"]) == (second, 1, "no source")
    assert [row[0] for row in admin.do("SELECT number FROM txb.job_list()")] == [number]
    assert admin.do("SELECT job ->> 'name' FROM txb.job_list()") == [("nightly",)]


def test_jobs_are_listed_page_by_page_the_newest_first(admin):
    numbers = []
    for _ in range(3):
        numbers.append(start(admin)[0])
        admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", numbers[-1])
    assert admin.do("SELECT number FROM txb.job_list(page => 2)") == [(numbers[2],), (numbers[1],)]
    assert admin.do("SELECT number FROM txb.job_list(%s, 2)", numbers[1]) == [(numbers[0],)]
    for page in (0, 10001, None):
        with refused("22023", "a page has 1 to 10000 jobs"):
            admin.do("SELECT txb.job_list(NULL, %s)", page)


# -- who serves a lane ----------------------------------------------------------------------------


def test_a_claim_tells_everything_that_a_lane_needs(admin, worker):
    number, _ = start(admin, keys=[b"k"], types=["made"], time_from="2026-01-01 00:00:00+00", seq_from=5, forced=True)
    (row,) = claim(worker)
    assert (row["job"], row["topic"], row["source"], row["position"], row["seq_to"]) == (number, "t", "bank", 5, 100)
    assert (row["run"], row["types"], row["then_live"], row["wants_pass"]) == (number, ["made"], False, False)
    assert [bytes(key) for key in row["keys"]] == [b"k"] and row["time_from"].year == 2026 and row["time_to"] is None


def test_two_instances_share_the_lanes_and_never_serve_one_together(db, admin, worker):
    start(admin, topics=["t", "u"])
    other = db.session("worker")
    (first,) = lanes(worker, lanes_max=1)
    (second,) = lanes(other, TWO, owner="w2")
    assert first < second and lanes(worker) == [first] and lanes(other, TWO) == [second]
    assert lanes(db.session("worker"), lanes_max=10, instance=db.root.one("SELECT gen_random_uuid()")) == []
    worker.do("SELECT txb.lane_free(%s, %s)", first, TWO)
    assert lanes(other, TWO) == [second], "only its owner frees a lane"
    worker.do("SELECT txb.lane_free(%s, %s)", first, ONE)
    assert lanes(other, TWO, lanes_max=1) == [second] and lanes(other, TWO) == [first, second]
    assert lanes(worker) == []


def test_two_who_claim_at_once_do_not_wait_for_each_other(db, admin, worker):
    start(admin, topics=["t", "u"])
    other = db.session("worker")
    worker.do("BEGIN")
    (first,) = lanes(worker, lanes_max=1)
    assert first not in lanes(other, TWO)
    worker.do("COMMIT")


def test_a_lease_that_is_over_goes_to_the_next_and_is_renewed_before(db, admin, worker):
    start(admin)
    other = db.session("worker")
    (lane,) = lanes(worker)
    expire(db)
    assert lanes(worker) == [lane], "who is late, but the first to come, keeps it"
    assert lanes(other, TWO) == []
    expire(db)
    assert lanes(other, TWO, owner="w2") == [lane] and lanes(worker) == []
    assert db.root.do("SELECT owner, instance FROM txb.job_lane") == [("w2", TWO)]


def test_whoever_is_taken_over_just_now_is_told_so(db, admin, worker):
    start(admin)
    other = db.session("worker")
    (lane,) = lanes(worker)
    expire(db)
    other.do("BEGIN")
    assert lanes(other, TWO) == [lane]
    running = worker.start("SELECT lane FROM txb.lane_claim('g', 'w1', %s, %s, 10)", ONE, LEASE_MS)
    db.wait_until_waiting(worker)
    other.do("COMMIT")
    assert running.finish() == []


def test_a_claim_with_no_lanes_to_spare_renews_only(db, admin, worker):
    start(admin, topics=["t", "u"])
    assert lanes(worker, lanes_max=0) == []
    (lane,) = lanes(worker, lanes_max=1)
    expire(db)
    assert lanes(worker, lanes_max=0) == [lane]
    assert db.root.one("SELECT lease_until > now() FROM txb.job_lane WHERE lane = %s", lane)


@pytest.mark.parametrize("wrong", [("", "w", ONE, 1000, 1), ("g", "", ONE, 1000, 1), ("g", "w", None, 1000, 1)])
def test_a_claim_without_a_name_is_refused(worker, wrong):
    with refused("22023", "txb.lane_claim: group, owner and instance are needed"):
        worker.do("SELECT txb.lane_claim(%s, %s, %s, %s, %s)", *wrong)


@pytest.mark.parametrize("lease_ms,lanes_max", [(99, 1), (3600001, 1), (None, 1), (1000, -1), (1000, None)])
def test_a_claim_out_of_its_limits_is_refused(worker, lease_ms, lanes_max):
    with refused("22023", "a lease_ms of 100 to 3600000"):
        worker.do("SELECT txb.lane_claim('g', 'w', %s, %s, %s)", ONE, lease_ms, lanes_max)


def test_other_groups_get_nothing(db, admin, worker):
    start(admin)
    assert lanes(worker, group="h") == []


def test_who_can_not_serve_a_lane_lets_others_try(db, admin, worker):
    start(admin)
    other = db.session("worker")
    (lane,) = lanes(worker)
    text = 'worker w1 has no source "bank": add sources.bank.database to its configuration'
    worker.do("SELECT txb.lane_error(%s, %s, %s)", lane, TWO, "not mine")
    worker.do("SELECT txb.lane_error(%s, %s, %s)", lane, ONE, text)
    worker.do("SELECT txb.lane_free(%s, %s)", lane, ONE)
    assert db.root.one("SELECT last_error FROM txb.job_lane") == text
    assert lanes(worker) == []
    assert lanes(other, TWO) == [lane]
    other.do("SELECT txb.lane_error(%s, %s, NULL)", lane, TWO)
    assert db.root.one("SELECT last_error FROM txb.job_lane") is None
    other.do("SELECT txb.lane_error(%s, %s, 'down')", lane, TWO)
    assert lanes(other, TWO) == [lane], "an error alone does not take it away"
    other.do("SELECT txb.lane_free(%s, %s)", lane, TWO)
    assert lanes(other, TWO) == []
    db.root.do("UPDATE txb.job_lane SET error_at = error_at - interval '10 s'")
    assert lanes(other, TWO) == [lane], "nobody else came"


# -- what ends --------------------------------------------------------------------------------------


def test_a_lane_read_to_its_end_is_done_and_the_last_one_ends_the_job(db, admin, worker):
    number, _ = start(admin, topics=["t", "u"])
    (first, second) = lanes(worker)
    part = Part(worker, -first, instance=ONE)
    part.batch(100, applied=2)
    assert lanes(worker) == [second] and job(db, number)["state"] == "running"
    assert db.root.do("SELECT done, owner FROM txb.job_lane ORDER BY lane") == [(True, None), (False, "w1")]
    assert db.root.do("SELECT busy, owner FROM txb.consumer_offset WHERE partition = %s", -first) == [(False, None)]
    other = Part(worker, -second, "u", instance=ONE)
    worker.do("SELECT txb.offset_pass('g', 'u', %s, %s, 1, 100)", -second, other.epoch)
    assert lanes(worker) == []
    row = job(db, number)
    assert (row["state"], row["state_by"]) == ("done", "worker w1") and row["finished_at"] is not None
    with refused("55000", f"job {number} is done since", "worker w1"):
        admin.do("SELECT txb.job_pause(%s, 'hal')", number)


def test_two_workers_that_end_the_last_two_lanes_at_once_end_the_job(db, admin, worker):
    number, _ = start(admin, topics=["t", "u"])
    other = db.session("worker")
    (first,) = lanes(worker, lanes_max=1)
    (second,) = lanes(other, TWO)
    Part(worker, -first, instance=ONE).batch(100, applied=1)
    Part(other, -second, "u", instance=TWO).batch(100, applied=1)
    worker.do("BEGIN")
    assert lanes(worker) == []
    running = other.start("SELECT lane FROM txb.lane_claim('g', 'w2', %s, %s, 10)", TWO, LEASE_MS)
    db.wait_until_waiting(other)
    worker.do("COMMIT")
    assert running.finish() == [] and job(db, number)["state"] == "done"


def test_failed_messages_of_a_done_lane_are_still_served(db, admin, worker):
    number, _ = start(admin)
    (lane,) = lanes(worker)
    part = Part(worker, -lane, instance=ONE)
    part.batch(100, aside(7), aside(8, state="held"), aside(9, b"z", "dead"))
    (row,) = claim(worker)
    assert (row["lane"], row["seq_to"], row["position"]) == (lane, 100, 100) and job(db, number)["state"] == "done"
    part.keys()
    assert part.mark() == [(7, 0)]
    part.settle()
    part.mark()
    part.settle()
    assert lanes(worker) == [], "a dead message is not tried again by itself"
    admin.do("SELECT txb.failed_retry(ARRAY(SELECT number FROM txb.failed WHERE state = 'dead'), 'hal')")
    assert lanes(worker) == [lane]


def test_nothing_of_a_paused_job_is_served(db, admin, worker):
    number, _ = start(admin)
    (lane,) = lanes(worker)
    part = Part(worker, -lane, instance=ONE)
    part.batch(5, aside(3), applied=1)
    part.keys()
    admin.do("SELECT txb.job_pause(%s, 'hal')", number)
    with refused("TXB01", f"txb.batch_open: lane {lane} does not go on", f"job {number} is paused", "(hal)"):
        part.open(6, 1).finish()
    worker.do("ROLLBACK")
    with refused("TXB01", "txb.retry_mark", "is paused"):
        part.mark()
    assert lanes(worker) == [] and lanes(db.session("worker"), TWO) == []
    assert db.root.do("SELECT busy, owner FROM txb.consumer_offset WHERE partition < 0") == [(False, None)]
    admin.do("SELECT txb.job_resume(%s, 'hal')", number)
    assert lanes(worker, TWO) == [lane]
    row = part.take(TWO)
    assert not row["suspect"], "nobody has died"
    part.keys()
    part.batch(9, applied=1)


def test_a_pause_between_marker_and_run_is_obeyed(db, admin, worker):
    number, _ = start(admin)
    (lane,) = lanes(worker)
    part = Part(worker, -lane, instance=ONE)
    part.batch(5, aside(3), applied=1)
    assert part.mark() == [(3, 0)]
    admin.do("SELECT txb.job_pause(%s, 'hal')", number)
    with refused("TXB01", "txb.retry_open", "is paused"):
        part.settle()
    worker.do("ROLLBACK")


def test_a_cancelled_job_reads_no_more_and_tries_again_what_has_failed(db, admin, worker):
    number, _ = start(admin)
    (lane,) = lanes(worker)
    part = Part(worker, -lane, instance=ONE)
    part.batch(5, aside(3), applied=1)
    admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", number)
    with refused("TXB01", "is cancelled since"):
        part.open(6, 1).finish()
    worker.do("ROLLBACK")
    (row,) = claim(worker)
    assert (row["lane"], row["seq_to"], row["position"]) == (lane, 5, 5)
    part.mark()
    part.settle()
    assert lanes(worker) == [] and job(db, number)["state"] == "cancelled"


def test_a_job_paused_as_its_last_lane_ends_is_done_when_it_is_resumed(db, admin, worker):
    number, _ = start(admin)
    (lane,) = lanes(worker)
    Part(worker, -lane, instance=ONE).batch(100, applied=1)
    admin.do("BEGIN")
    admin.do("SELECT txb.job_pause(%s, 'hal')", number)
    running = worker.start("SELECT lane FROM txb.lane_claim('g', 'w1', %s, %s, 10)", ONE, LEASE_MS)
    db.wait_until_waiting(worker)
    admin.do("COMMIT")
    running.finish()
    assert job(db, number)["state"] == "paused"
    admin.do("SELECT txb.job_resume(%s, 'hal')", number)
    lanes(worker)
    assert job(db, number)["state"] == "done"


# -- a group that is rebuilt ------------------------------------------------------------------------

PASS = "SELECT txb.lane_pass(%s, %s, %s::int[], %s::bigint[], %s, %s)"


@pytest.fixture
def rebuilt(db, admin, worker):
    """(job, lane, part) of topic new, from number 1 on."""
    number, _ = start(admin, topics=["new"], then_live=True, seq_to=None)
    (lane,) = lanes(worker)
    return number, lane, Part(worker, -lane, "new", instance=ONE)


def positions(db):
    return db.root.do(
        "SELECT partition, next_offset, cluster_id FROM txb.consumer_offset WHERE topic = 'new' AND partition >= 0 "
        "ORDER BY partition"
    )


def test_passes_go_on_until_one_is_short_and_live_begins_where_that_one_did(db, worker, rebuilt):
    number, lane, part = rebuilt
    assert worker.one("SELECT txb.group_waits('g')") is True and worker.one("SELECT txb.group_waits('h')") is False
    assert claim(worker)[0]["wants_pass"], "an empty pass is the first"
    assert worker.one(PASS, lane, ONE, [0, 1], [10, 20], "c1", 50000) == "next"
    (row,) = claim(worker)
    assert (row["position"], row["seq_to"], row["wants_pass"]) == (1, 50001, False)
    part.batch(50001, applied=9)
    assert claim(worker)[0]["wants_pass"]
    assert worker.one(PASS, lane, ONE, [0, 1], [11, 21], "c1", 60000) == "next", "it was long"
    part.batch(60001, applied=9)
    assert worker.one(PASS, lane, ONE, [1, 0], [99, 98], "c1", 60009) == "done"
    assert positions(db) == [(0, 11, "c1"), (1, 21, "c1")], "the ends that were noted before the pass"
    assert job(db, number)["state"] == "done" and worker.one("SELECT txb.group_waits('g')") is False
    with refused("TXB01", "it is done"):
        worker.one(PASS, lane, ONE, [0, 1], [11, 21], "c1", 60000)
    assert lanes(worker) == []


def test_a_pass_of_ten_thousand_numbers_is_short_and_one_more_is_not(db, worker, rebuilt):
    _, lane, part = rebuilt
    worker.one(PASS, lane, ONE, [0], [5], "c1", 10001)
    part.batch(10002, applied=1)
    assert worker.one(PASS, lane, ONE, [0], [6], "c1", 20001) == "next"
    part.batch(20002, applied=1)
    assert worker.one(PASS, lane, ONE, [0], [7], "c1", 20001) == "done" and positions(db) == [(0, 6, "c1")]


def test_an_empty_outbox_is_passed_once(db, worker, rebuilt):
    _, lane, _ = rebuilt
    assert worker.one(PASS, lane, ONE, [0], [0], "c1", 0) == "next"
    assert claim(worker)[0]["wants_pass"]
    assert worker.one(PASS, lane, ONE, [0], [3], "c1", 0) == "done" and positions(db) == [(0, 0, "c1")]


def test_partitions_that_came_meanwhile_and_another_cluster_are_noted_anew(db, worker, rebuilt):
    _, lane, _ = rebuilt
    worker.one(PASS, lane, ONE, [0], [5], "c1", 0)
    assert worker.one(PASS, lane, ONE, [0, 1], [6, 0], "c1", 0) == "next"
    assert worker.one(PASS, lane, ONE, [0, 1], [7, 1], "c2", 0) == "next"
    assert worker.one(PASS, lane, ONE, [0, 1], [8, 2], "c2", 0) == "done"
    assert positions(db) == [(0, 7, "c2"), (1, 1, "c2")]


def test_live_waits_for_messages_that_are_still_tried_again_or_hold_their_key(db, worker, rebuilt):
    _, lane, part = rebuilt
    worker.one(PASS, lane, ONE, [0], [5], "c1", 9)
    part.batch(10, aside(7))
    assert not claim(worker)[0]["wants_pass"]
    assert worker.one(PASS, lane, ONE, [0], [6], "c1", 9) == "next"
    part.mark()
    part.settle("dead")
    assert claim(worker)[0]["wants_pass"], "a dead one waits for a person"
    assert worker.one(PASS, lane, ONE, [0], [7], "c1", 9) == "next", "it holds its key, which live would overtake"
    assert "1 do, of which 1 dead" in db.root.one("SELECT last_error FROM txb.job_lane WHERE lane = %s", lane)
    db.session("admin").do("SELECT txb.failed_discard(ARRAY(SELECT number FROM txb.failed WHERE state = 'dead'), 'hal', 'enough')")
    assert worker.one(PASS, lane, ONE, [0], [8], "c1", 9) == "done" and positions(db) == [(0, 7, "c1")]


def test_a_pass_is_for_whoever_has_the_lane_and_where_it_is_read_to_its_end(db, admin, worker, rebuilt):
    number, lane, _ = rebuilt
    with refused("TXB01", f"lane {lane} is not this worker's", "It is served by w1."):
        worker.one(PASS, lane, TWO, [0], [5], "c1", 9)
    with refused("TXB01", "is not this worker's", "nobody"):
        worker.one(PASS, 4711, ONE, [0], [5], "c1", 9)
    for partitions, offsets, highest in (([], [], 9), ([0], [1, 2], 9), ([0], [None], 9), ([-1], [1], 9), ([0], [5], None)):
        with refused("22023", f"txb.lane_pass: lane {lane} stands at 1 of 1"):
            worker.one(PASS, lane, ONE, partitions, offsets, "c1", highest)
    worker.one(PASS, lane, ONE, [0], [5], "c1", 9)
    with refused("22023", "stands at 1 of 10"):
        worker.one(PASS, lane, ONE, [0], [5], "c1", 9)
    admin.do("SELECT txb.job_pause(%s, 'hal')", number)
    with refused("TXB01", f"job {number} is paused"):
        worker.one(PASS, lane, ONE, [0], [5], "c1", 9)
    assert worker.one("SELECT txb.group_waits('g')") is True, "a paused job's group waits too"
    admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", number)
    assert worker.one("SELECT txb.group_waits('g')") is False


def test_a_plain_lane_makes_no_pass(admin, worker):
    start(admin)
    (lane,) = lanes(worker)
    with refused("22023", "txb.lane_pass"):
        worker.one(PASS, lane, ONE, [0], [5], "c1", 9)


def test_a_group_that_is_rebuilt_gets_no_position_from_anybody_else(db, admin, worker, rebuilt):
    number, _, _ = rebuilt
    texts = ('group "g" gets its position in topic "new" from a replay job', f"job {number} is running")
    with refused("55006", *texts):
        worker.do("SELECT txb.offset_register('g', 'new', '{0}', '{5}', 'c1')")
    with refused("55006", *texts):
        admin.do("SELECT txb.offset_set('g', 'new', 0, 5, 'c1', 'why not')")
    register(worker, "t", 3)
    assert positions(db) == []
    admin.do("SELECT txb.job_cancel(%s, 'hal', 'enough')", number)
    register(worker, "new", 1)


def test_a_position_made_while_a_rebuilding_starts_is_seen(db, admin, worker):
    worker.do("BEGIN")
    register(worker, "new", 1)
    running = admin.start(
        "SELECT txb.job_start(NULL, 'g', 'bank', '{new}', NULL, NULL, NULL, NULL, 1, NULL, false, true, NULL, NULL, 'hal')"
    )
    db.wait_until_waiting(admin)
    worker.do("COMMIT")
    with refused("55000", 'group "g" has a position in topic "new" already'):
        running.finish()


def test_a_lane_is_no_partition_that_anybody_registers_or_sets(admin, worker):
    with refused("22023", "a partition is negative"):
        worker.do("SELECT txb.offset_register('g', 't', '{-1}', '{0}', 'c1')")
    with refused("22023", "partition -1 is a lane of a replay job", "Cancel the job"):
        admin.do("SELECT txb.offset_set('g', 't', -1, 5, 'c1', 'why not')")
