"""What the other commands say of jobs: of replays, in status, doctor and the lists of failed messages; of decisions about failed messages, in status."""

import json
import re

from test_replay_commands import ESCAPES, desk, directory, server  # fixtures are used by their names

FIXTURES = (desk, directory, server)


# -- replay jobs ---------------------------------------------------------------------------------------------------------------------------


def test_status_shows_jobs_and_no_lane_among_the_partitions(desk):
    desk.publish(10)
    number = desk.start()
    assert desk.json("replay", "start", "--group", "balances", "--then-live", "--yes")["number"] == number + 1
    desk.book("UPDATE txb.job_lane SET owner = 'worker-1', lease_until = clock_timestamp() + interval '1 hour',"
              " last_error = 'worker-1 has no source \"shop\"' WHERE topic = 'payments'")
    status = desk.json("status")
    groups = {g["group"]: [(p["topic"], p["partition"]) for p in g["partitions"]] for g in status["groups"]}
    assert groups == {"balances": [], "ledger": [("orders", 0), ("orders", 1), ("payments", 0), ("payments", 1)]}
    assert [(j["number"], j["group_name"], j["state"], len(j["lanes"])) for j in status["jobs"]] == [(number, "ledger", "running", 2), (number + 1, "balances", "running", 1)]
    text = desk.ok("status")
    assert re.search(rf"^ +{number}  ledger    shop    orders +1 +11 +0 +0 +0  waits  -$", text, re.M), text
    assert re.search(rf"^ +{number}  ledger    shop    payments +1 +11 +0 +0 +0  owned  worker-1$", text, re.M), text
    assert f'  job {number}, payments: worker-1 has no source "shop"' in text and not re.search(r"(orders|payments)/? +-\d", text)
    lines = [json.loads(line) for line in desk.ok("-o", "jsonl", "status").splitlines()]
    assert [line["number"] for line in lines if "lanes" in line] == [number, number + 1]
    checks = [c for c in json.loads(desk.run("-o", "json", "doctor")[1])["checks"] if c["check"] == "replay"]
    assert [(c["of"], c["result"]) for c in checks] == [(f"job {number}, orders", "warn"), (f"job {number}, payments", "warn"), (f"job {number + 1}, orders", "warn")]
    assert "no worker of group ledger serves it" in checks[0]["found"] and "has no source" in checks[1]["found"]
    for job in (number, number + 1):
        desk.ok("replay", "cancel", str(job), "--reason", "x")
    assert desk.json("status")["jobs"] == []


def test_a_failed_message_of_a_job_says_so(desk):
    desk.publish(10)
    number = desk.start()
    lane = desk.book("SELECT lane FROM txb.job_lane WHERE topic = 'orders'")[0][0]
    failed = desk.book("""INSERT INTO txb.failed (side, state, source, group_name, topic, partition, "offset", key, id, type, payload, attempts, error, place, holds)
                          VALUES ('consumer', 'dead', 'shop', 'ledger', 'orders', %s, 4, 'k1', txb.uuid_v7(), 'made', '1', 8, 'account is closed', 0, true)
                          RETURNING number""", -lane)[0][0]
    desk.book("UPDATE txb.consumer_offset SET failed = 1, consumed = 1 WHERE partition = %s", -lane)
    listed = desk.json("failed", "list", "--group", "ledger")["messages"]
    assert [(m["number"], m["partition"], m["job"]) for m in listed] == [(failed, None, number)]
    assert f"orders, job {number}" in desk.ok("failed", "list", "--group", "ledger")
    text = desk.ok("failed", "show", str(failed), "--group", "ledger")
    assert re.search(rf"^  job +{number}$", text, re.M) and re.search(r"^  number +4$", text, re.M)
    assert "partition" not in text and not re.search(rf"(?<!\w){-lane}\b", text), "an id may have -1 in it"
    shown = desk.json("failed", "show", str(failed), "--group", "ledger")
    assert (shown["partition"], shown["job"], shown["offset"]) == (None, number, 4)
    assert "1 failed; open: 1 dead" in desk.ok("replay", "show", str(number))
    desk.ok("replay", "cancel", str(number), "--reason", "x")
    assert [j["number"] for j in desk.json("status")["jobs"]] == [number], "what it left is not out of sight"
    assert "failed messages" not in desk.ok("status", "--timeout", "9").split("JOB")[0]


def test_a_failed_message_of_a_job_that_reads_kafka_has_its_place_there(desk):
    desk.publish(10)
    number = desk.start()
    lane = desk.book("UPDATE txb.job_lane SET from_partition = 1 WHERE topic = 'orders' RETURNING lane")[0][0]
    failed = desk.book("""INSERT INTO txb.failed (side, state, group_name, topic, partition, "offset", key, id, type, payload, attempts, error, place, holds)
                          VALUES ('consumer', 'dead', 'ledger', 'orders', %s, 49, 'k1', txb.uuid_v7(), 'made', '1', 8, 'account is closed', 0, true)
                          RETURNING number""", -lane)[0][0]
    [listed] = desk.json("failed", "list", "--group", "ledger")["messages"]
    shown = desk.json("failed", "show", str(failed), "--group", "ledger")
    for m in (listed, shown):
        assert (m["partition"], m["from_partition"], m["offset"], m["job"]) == (None, 1, 49, number)
    assert f"  orders[1] 49, job {number}  k1 " in desk.ok("failed", "list", "--group", "ledger")
    text = desk.ok("failed", "show", str(failed), "--group", "ledger")
    assert re.search(rf"^  job +{number}\n  partition +1\n  offset +49$", text, re.M) and not re.search(r"^  number ", text, re.M)


# -- jobs about failed messages ------------------------------------------------------------------------------------------------------------


FAILED = """INSERT INTO txb.failed (side, state, source, seq, group_name, topic, partition, "offset", key, id, type, payload, attempts, error, place, holds)
            SELECT %s, 'dead', 'shop', n, %s, 'orders', 0, n, convert_to('k' || n, 'UTF8'), txb.uuid_v7(), 'made', '1', 8, 'account is closed', 0, true FROM generate_series(1, %s) AS n"""


def test_status_shows_jobs_about_failed_messages_that_are_not_over(desk):
    assert desk.json("status")["failed_jobs"] == [] and "FAILED JOB" not in desk.ok("status")
    desk.book(FAILED, "consumer", "ledger", 3)
    desk.sell(FAILED, "outbox", None, 2)
    edit = desk.json("failed", "edit", "--group", "ledger", "--set-header", "tenant=7", "--detach", "--yes")
    copy = desk.json("failed", "copy", "--source", "shop", "--to-topic", "aside", "--detach", "--yes")
    assert (edit["served"], copy["served"]) == (False, False)
    jobs = {j["verb"]: j for j in desk.json("status")["failed_jobs"]}
    assert {verb: (j["number"], j["messages"], j["done"], j["skipped"], j["left"], j["served"]) for verb, j in jobs.items()} == {
        "edit": (edit["job"], 3, 0, 0, 3, False), "copy": (copy["job"], 2, 0, 0, 2, False)}
    assert (jobs["edit"]["created_by"], jobs["edit"]["changes"], jobs["copy"]["to_topic"]) == ("operator", {"headers": {"tenant": "7"}}, "aside")
    assert jobs["edit"]["server"].endswith(desk.ledger) and jobs["copy"]["server"].endswith(desk.shop), "a source's database has them too"
    text = desk.ok("status")
    assert re.search(rf"^ +{edit['job']}  edit +ledger +0 of 3 +0 +\S+ m?s +operator +\S+ +failed resume$", text, re.M), text
    assert re.search(rf"^ +{copy['job']}  copy to aside +- +0 of 2 +0 ", text, re.M), text
    lines = [json.loads(line) for line in desk.ok("-o", "jsonl", "status").splitlines()]
    assert sorted(line["verb"] for line in lines if "verb" in line) == ["copy", "edit"]
    desk.ok("failed", "resume", str(edit["job"]), "--group", "ledger")
    desk.ok("failed", "cancel", str(copy["job"]), "--source", "shop", "--reason", "enough")
    assert desk.json("status")["failed_jobs"] == []


def test_status_tells_that_a_worker_goes_on_with_a_job(desk):
    desk.book(FAILED, "consumer", "ledger", 3)
    with desk.server.session(desk.ledger) as worker:
        desk.book("UPDATE txb.consumer_offset SET owner = 'worker-1', backend_pid = %s WHERE group_name = 'ledger'", worker.get_backend_pid())
        assert "; workers run it. Stop it: " in desk.ok("failed", "discard", "--group", "ledger", "--reason", ESCAPES, "--detach", "--yes")
        text = desk.ok("status")
    assert re.search(r" discard +ledger +0 of 3 .* a worker$", text, re.M), text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text + desk.ok("-o", "json", "status") + desk.ok("failed", "jobs", "--group", "ledger"))
