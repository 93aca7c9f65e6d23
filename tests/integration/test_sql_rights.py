"""Who may do what: every table, column, sequence, type and function under every role, by the catalog and by real
statements."""

import psycopg2
import pytest
from sqltest import ROLES, V7

APP, RELAY, WORKER, ADMIN, READER = ({role} for role in ROLES)
LOOK = ADMIN | READER  # txb_admin is a member of txb_reader
ALL = set(ROLES)

# Function -> who may call it. What is missing here may be called by nobody.
CALLS = {
    "audit_list": LOOK,
    "barrier_horizon": WORKER | LOOK,
    "barrier_partition_drop": WORKER,
    "barrier_partition_make": WORKER,
    "batch_close": WORKER,
    "batch_cut": WORKER,
    "batch_open": WORKER,
    "batch_stall": WORKER,
    "command_apply": WORKER,
    "command_enter": WORKER,
    "command_leave": WORKER,
    "command_run": WORKER,
    "commands_apply": WORKER,
    "commands_call_text": WORKER,
    "commands_enter": WORKER,
    "commands_leave": WORKER,
    "dead": APP | WORKER | ADMIN,
    "expect_version": APP | WORKER | ADMIN,
    "failed_add": WORKER,
    "failed_condemn": WORKER,
    "failed_keys": WORKER,
    "failed_changes_check": LOOK,
    "failed_copy": ADMIN,
    "failed_count": LOOK,
    "failed_expire": RELAY | WORKER | ADMIN,
    "failed_discard": ADMIN,
    "failed_edit": ADMIN,
    "failed_edit_many": ADMIN,
    "failed_find": LOOK,
    "failed_job_cancel": ADMIN,
    "failed_job_list": LOOK,
    "failed_job_open": WORKER,
    "failed_job_running": LOOK,
    "failed_job_start": ADMIN,
    "failed_job_step": ADMIN,
    "failed_job_work": WORKER,
    "failed_retry": ADMIN,
    "failed_show": LOOK,
    "group_register": WORKER,
    "group_registered": RELAY | WORKER | LOOK,
    "group_waits": WORKER,
    "inbox_horizon": WORKER | LOOK,
    "inbox_keep": WORKER | ADMIN,
    "inbox_partition_drop": WORKER | ADMIN,
    "inbox_partition_make": WORKER | ADMIN,
    "intent_fits": APP,
    "intent_problem": APP,
    "intent_refuse": APP,
    "job_cancel": ADMIN,
    "job_list": LOOK,
    "job_pause": ADMIN,
    "job_rate": ADMIN,
    "job_refusal": LOOK,
    "job_republish": WORKER,
    "job_resume": ADMIN,
    "job_show": LOOK,
    "job_start": ADMIN,
    "key_text": ALL,
    "lane_claim": WORKER,
    "lane_error": WORKER,
    "lane_free": WORKER,
    "lane_pass": WORKER,
    "not_ok": WORKER,
    "offset_evict": WORKER,
    "offset_pass": WORKER,
    "offset_register": WORKER,
    "offset_release": WORKER,
    "offset_set": ADMIN,
    "offset_take": WORKER,
    "ok": APP | WORKER | ADMIN,
    "outbox_holders": RELAY | ADMIN,
    "outbox_partitions_ahead": RELAY | LOOK,
    "outbox_pin_set": RELAY | ADMIN,
    "outbox_served": RELAY | WORKER | LOOK,
    "outbox_unpin": RELAY | ADMIN,
    "output_problem": WORKER,
    "output_size_max": WORKER,
    "partition_bounds": RELAY | WORKER | LOOK,
    "partition_drop": RELAY,
    "partition_make": RELAY | ADMIN,
    "publish": APP | WORKER | ADMIN,
    "publish_many": APP | WORKER | ADMIN,
    "refusal": WORKER,
    "refuse": APP | WORKER | ADMIN,
    "relay_acquire": RELAY,
    "relay_checkpoint": RELAY,
    "relay_decisions_take": RELAY,
    "relay_hold_release": RELAY,
    "relay_hold_set": RELAY,
    "relay_record_failed": RELAY,
    "relay_release": RELAY,
    "relay_renew": RELAY,
    "relay_settle": RELAY,
    "replay_count": WORKER | LOOK,
    "replay_count_max": WORKER | LOOK,
    "replay_range": RELAY | LOOK,
    "reply_topic_set": ADMIN,
    "request": APP | WORKER | ADMIN,
    "request_expire": WORKER | ADMIN,
    "request_result": APP | WORKER | ADMIN,
    "retry": APP | WORKER | ADMIN,
    "retry_mark": WORKER,
    "retry_open": WORKER,
    "retry_settle": WORKER,
    "saga_append": WORKER,
    "saga_begin": WORKER,
    "saga_coordinator_set": WORKER,
    "saga_decide": ADMIN,
    "saga_deploy": ADMIN,
    "saga_events": WORKER,
    "saga_finish": WORKER,
    "saga_id": APP | WORKER | LOOK,
    "saga_keep": WORKER,
    "saga_load": WORKER,
    "saga_partition_drop": WORKER,
    "saga_problem": ADMIN,
    "saga_lock": WORKER,
    "saga_output_problems": WORKER,
    "saga_partition_make": WORKER,
    "saga_reopen": WORKER,
    "saga_result": APP | WORKER | ADMIN,
    "saga_start": APP | WORKER | ADMIN,
    "saga_stray_add": WORKER,
    "saga_timer_drop": WORKER,
    "sagas_seen": WORKER | LOOK,
    "saga_unlock": WORKER,
    "scheduled_move": RELAY,
    "suspect_mark": WORKER,
    "take_reply": WORKER,
    "uuid_v7": APP | RELAY | WORKER | ADMIN,
    "uuid_v7_floor": ALL,
    "uuid_v7_time": ALL,
}
# Relation -> who may SELECT. Partitions and everything missing here: nobody.
READS = {
    "audit": LOOK,
    "barrier": WORKER | LOOK,
    "barrier_horizon": WORKER | LOOK,
    "consumer_group": LOOK,
    "consumer_offset": WORKER | LOOK,
    "failed": RELAY | LOOK,
    "failed_history": LOOK,
    "failed_job": LOOK,
    "failed_job_part": LOOK,
    "inbox": WORKER | LOOK,
    "inbox_partition": WORKER | LOOK,
    "inbox_state": WORKER | LOOK,
    "inbox_wish": WORKER | LOOK,
    "job": LOOK,
    "job_lane": LOOK,
    "outbox": RELAY | LOOK,
    "outbox_partition": RELAY | LOOK,
    "outbox_pin": RELAY | LOOK,
    "outbox_seq_seq": RELAY | LOOK,
    "relay": RELAY | LOOK,
    "relay_decision": RELAY | LOOK,
    "relay_hold": RELAY | LOOK,
    "relay_holes": RELAY | LOOK,
    "reply_ignored": WORKER | LOOK,
    "reply_topic": LOOK,
    "request": LOOK,
    "saga": WORKER | LOOK,
    "saga_coordinator": WORKER | LOOK,
    "saga_definition": WORKER | LOOK,
    "saga_end": WORKER | LOOK,
    "saga_event": WORKER | LOOK,
    "saga_lock": WORKER | LOOK,
    "saga_stray": WORKER | LOOK,
    "scheduled": RELAY | LOOK,
    "schema_migration": ALL,
}
# The only writing that is not done by functions: (relation, column) -> who may INSERT.
WRITES = {("outbox", column): APP for column in ("id", "topic", "key", "type", "payload", "content_type", "headers")}
WRITES.update({("inbox", column): WORKER for column in ("group_name", "run", "message_id")})

UUID = "'00000000-0000-4000-8000-000000000001'"
HELD = "SELECT txb.relay_acquire('bank', 'r1', %s, 30000, NULL)" % UUID
KNOWN = "SELECT txb.offset_register('g', 't', '{0}', '{0}', 'c1')"
TAKEN = f"{KNOWN}; SELECT txb.offset_take('g', 't', 0, 'w1', {UUID}, 'c1')"
OPENED = f"SELECT txb.batch_open('g', 't', 0, 1, 0, 2, 2, '{V7}', 0, 0)"
ADDED = (
    f"SELECT txb.failed_add('g', 't', 0, '{{0}}', '{{{V7}}}', '{{s}}', '{{k}}', '{{made}}', '{{now}}', '{{x}}', '{{j}}', "
    "ARRAY['{}'::jsonb], '{retrying}', '{1}', '{0}', '{true}', '{error}', '{P0001}', '{no}', 'h', 'w')"
)
FAILED = [TAKEN, OPENED, ADDED, "SELECT txb.batch_close('g', 't', 0, 1, 0, 1)"]
MARKED = "SELECT * FROM txb.retry_mark('g', 't', 0, 1, 10, 1000)"
SET_ASIDE = (
    "INSERT INTO txb.failed (number, side, state, group_name, topic, partition, \"offset\", id, place) "
    "OVERRIDING SYSTEM VALUE VALUES (777, 'consumer', 'dead', 'g', 't', 0, 1, txb.uuid_v7(), 1)"
)
JOB = (
    "SELECT txb.job_start('j', 'g', 'bank', '{t}', NULL, NULL, NULL, NULL, 1, 10, %s, %s, NULL, 'lost', 'hal')"
)
FROM_KAFKA = (
    "SELECT txb.job_start('j', 'g', NULL, '{t}', NULL, NULL, NULL, NULL, NULL, NULL, false, false, NULL, 'lost', 'hal', '{t}', "
    "'{0}', '{0}', '{5}', 'c1')"
)
FIRST = "ALTER SEQUENCE txb.job_number_seq RESTART; ALTER SEQUENCE txb.job_lane_lane_seq RESTART"
STARTED = [FIRST, KNOWN, JOB % (False, False)]
DECIDING = [FIRST, SET_ASIDE, "SELECT txb.failed_job_start('retry', '{}', NULL, 'hal')"]
REBUILT = [FIRST, JOB % (False, True), f"SELECT txb.lane_claim('g', 'w1', {UUID}, 30000, 1)"]
COMMAND = (
    '{"txb-reply-to": "r", "txb-saga": "00000000-0000-4000-8000-000000000001", "txb-saga-started": "1", '
    '"txb-saga-step": "s", "txb-saga-operation": "action"}'
)
ENTERED = f"SELECT txb.command_enter('{COMMAND}')"
TO_LEAVE = f"ROW(NULL, '{V7}', 't', NULL, NULL, 'k', NULL, NULL, NULL, NULL, '{COMMAND}', 1)::txb.message"
DEPLOYED = "SELECT txb.saga_deploy('order', 1, '{}', NULL, NULL, 'coordinator', 'hal')"
BEGUN = (
    f"SELECT txb.saga_begin(ARRAY[{UUID}::uuid], '{{now}}', '{{order}}', '{{NULL}}', '{{NULL}}', ARRAY['{{}}'::jsonb], "
    "'{NULL}', '{NULL}', '{NULL}')"
)
LOCKED = f"SELECT * FROM txb.saga_lock(ARRAY[{UUID}::uuid], '{{now}}', ARRAY[{UUID}::uuid], '{{x}}', '{{t}}')"
AWAITED = "SELECT l.* FROM txb.uuid_v7() AS r (id), txb.saga_lock(ARRAY[r.id], '{now}', ARRAY[r.id], '{x}', '{t}') AS l"
ROW = "INSERT INTO txb.outbox (topic, key, type) VALUES ('t', 'k', 'made')"
# (statement, who may run it, what must have been done before it as the superuser)
STATEMENTS = [
    ("SELECT txb.publish('t', 'k', 'made', '1')", APP | WORKER | ADMIN, []),
    (
        "SELECT txb.publish('t', 'k', 'made', '1'::jsonb, not_before => now() + interval '1 h')",
        APP | WORKER | ADMIN,
        [],
    ),
    ("SELECT txb.publish('t', 'k', 'made', '1'::bytea, strict_order => true)", APP | WORKER | ADMIN, []),
    ("SELECT txb.publish_many('{t}', '{k}', '{m}', '{1}', '{x}')", APP | WORKER | ADMIN, []),
    (ROW, APP, []),
    (
        "INSERT INTO txb.outbox (id, topic, key, type, payload, content_type, headers) VALUES (txb.uuid_v7(), 't', "
        "'k', 'made', '', 'x', '{\"a\": \"b\"}')",
        APP,
        [],
    ),
    ("COPY txb.outbox (topic, key, type) FROM PROGRAM 'true'", set(), []),
    ("INSERT INTO txb.outbox (topic, type, created_at) VALUES ('t', 'm', now())", set(), []),
    ("INSERT INTO txb.outbox (seq, topic, type) OVERRIDING SYSTEM VALUE VALUES (1, 't', 'm')", set(), []),
    ("INSERT INTO txb.outbox (topic, type) VALUES ('t', 'm') RETURNING id", set(), []),
    ("INSERT INTO txb.outbox (topic, type, origin) VALUES ('t', 'm', '{}')", set(), []),
    ("SELECT txb.outbox_copy('t', txb.uuid_v7(), 's', 'k', 'm', now(), 'x', NULL, NULL, NULL)", set(), []),
    ("SELECT txb.replay_count('{}'), txb.replay_count_max()", WORKER | LOOK, []),
    ("SELECT txb.job_republish(NULL)", WORKER, []),
    ("SELECT txb.outbox_served()", RELAY | WORKER | LOOK, []),
    ("SELECT txb.group_register('g', 'dead')", WORKER, []),
    ("SELECT * FROM txb.consumer_group", LOOK, []),
    ("SELECT * FROM txb.group_registered('g')", RELAY | WORKER | LOOK, []),
    ("UPDATE txb.consumer_group SET dead_letter_topic = NULL", set(), []),
    ("INSERT INTO txb.outbox_p000000000001 (seq, topic, type) VALUES (1, 't', 'm')", set(), []),
    ("SELECT count(*) FROM txb.outbox", RELAY | LOOK, []),
    ("SELECT id FROM txb.outbox", RELAY | LOOK, []),
    ("SELECT * FROM txb.outbox WHERE seq > 0 ORDER BY seq LIMIT 1", RELAY | LOOK, [ROW]),
    ("SELECT count(*) FROM txb.outbox_p000000000001", set(), []),
    ("UPDATE txb.outbox SET topic = 'x'", set(), [ROW]),
    ("DELETE FROM txb.outbox", set(), [ROW]),
    ("TRUNCATE txb.outbox", set(), []),
    ("LOCK TABLE txb.outbox IN ACCESS EXCLUSIVE MODE", set(), []),
    ("ALTER TABLE txb.outbox DETACH PARTITION txb.outbox_p000000000001", set(), []),
    ("DROP TABLE txb.outbox_p000000000001", set(), []),
    ("ALTER TABLE txb.outbox DISABLE TRIGGER intent_check", set(), []),
    ("DROP TRIGGER intent_check ON txb.outbox", set(), []),
    ("SELECT last_value FROM txb.outbox_seq_seq", RELAY | LOOK, []),
    ("SELECT nextval('txb.outbox_seq_seq')", set(), []),
    ("SELECT setval('txb.outbox_seq_seq', 1)", set(), []),
    ("INSERT INTO txb.scheduled (due, id, topic, type) VALUES (now(), txb.uuid_v7(), 't', 'm')", set(), []),
    ("SELECT due FROM txb.scheduled ORDER BY due, number LIMIT 1", RELAY | LOOK, []),
    ("DELETE FROM txb.scheduled", set(), []),
    (HELD, RELAY, []),
    (f"SELECT txb.relay_renew('bank', 1, {UUID}, 30000)", RELAY, [HELD]),
    (
        f"SELECT txb.relay_checkpoint('bank', 1, {UUID}, 0, 10, 5, 5, 30000, '{{0}}', ARRAY['{{[6,11)}}'])",
        RELAY,
        [HELD],
    ),
    (f"SELECT txb.relay_release('bank', 1, {UUID})", RELAY, [HELD]),
    (f"SELECT txb.relay_hold_set('bank', 1, {UUID}, 'topic', 't', NULL, 1, 'missing')", RELAY, [HELD]),
    (f"SELECT txb.relay_hold_release('bank', 1, {UUID}, 'topic', 't', NULL)", RELAY, [HELD]),
    (
        f"SELECT txb.relay_record_failed('bank', 1, {UUID}, (SELECT min(seq) FROM txb.outbox), 'MSG_SIZE_TOO_LARGE', "
        f"'x')",
        RELAY,
        [HELD, ROW],
    ),
    (f"SELECT txb.relay_decisions_take('bank', 1, {UUID})", RELAY, [HELD]),
    (f"SELECT txb.relay_settle('bank', 1, {UUID}, '{{1}}', '{{t}}', '{{k}}', '{{0}}')", RELAY, [HELD]),
    ("SELECT txb.outbox_decide(1, 'retry', NULL, NULL, NULL, 'w', 'r')", set(), []),
    ("SELECT * FROM txb.relay_decision", RELAY | LOOK, []),
    ("INSERT INTO txb.relay_decision (of_source, failed_id, topic) VALUES ('bank', 1, 't')", set(), []),
    ("DELETE FROM txb.relay_decision", set(), []),
    (f"SELECT txb.scheduled_move('bank', 1, {UUID}, 10)", RELAY, [HELD]),
    ("SELECT * FROM txb.outbox_holders()", RELAY | ADMIN, []),
    ("SELECT txb.partition_make(1000, 10)", RELAY | ADMIN, []),
    ("SELECT txb.partition_drop('bank', interval '1 h')", RELAY, [HELD]),
    ("SELECT * FROM txb.outbox_partition", RELAY | LOOK, []),
    ("SELECT * FROM txb.partition_bounds('txb.outbox')", RELAY | WORKER | LOOK, []),
    ("SELECT txb.outbox_partitions_ahead()", RELAY | LOOK, []),
    ("UPDATE txb.relay SET highest = 7", set(), [HELD]),
    ("INSERT INTO txb.relay (source) VALUES ('other')", set(), []),
    ("DELETE FROM txb.relay", set(), [HELD]),
    ("DELETE FROM txb.relay_holes", set(), []),
    ("DELETE FROM txb.relay_hold", set(), []),
    ("SELECT * FROM txb.failed_find('{}')", LOOK, []),
    ("SELECT * FROM txb.failed_count('{}', 'error')", LOOK, []),
    ("SELECT * FROM txb.failed_show(777)", LOOK, [SET_ASIDE]),
    ("SELECT * FROM txb.failed_retry('{777}', 'me')", ADMIN, [SET_ASIDE]),
    ("SELECT * FROM txb.failed_discard('{777}', 'me', 'no use')", ADMIN, [SET_ASIDE]),
    ("SELECT * FROM txb.failed_edit(777, '1', NULL, NULL, 'me')", ADMIN, [SET_ASIDE]),
    ("SELECT * FROM txb.failed_edit_many('{777}', '{\"payload\": \"MQ==\"}', 'me')", ADMIN, [SET_ASIDE]),
    ("SELECT txb.failed_changes_check('{\"unset\": [\"a\"]}')", LOOK, []),
    ("SELECT * FROM txb.failed_copy('{777}', 'aside', 'me')", ADMIN, [SET_ASIDE, HELD]),
    ("SELECT txb.failed_job_start('retry', '{}', NULL, 'hal')", ADMIN, [SET_ASIDE]),
    ("SELECT txb.failed_job_start('copy', '{}', NULL, 'hal', NULL, 'aside')", ADMIN, [SET_ASIDE, HELD]),
    ("SELECT txb.failed_job_step(1, 'hal')", ADMIN, DECIDING),
    ("SELECT txb.failed_job_cancel(1, 'hal', 'enough')", ADMIN, DECIDING),
    ("SELECT txb.failed_job_list(), txb.failed_job_running()", LOOK, DECIDING),
    ("SELECT txb.failed_job_open('g'), txb.failed_job_work('g', 'w1')", WORKER, DECIDING),
    ("SELECT * FROM txb.failed_job, txb.failed_job_part", LOOK, DECIDING),
    ("UPDATE txb.failed_job SET state = 'done'", set(), DECIDING),
    ("DELETE FROM txb.failed_job_part", set(), DECIDING),
    ("SELECT txb.failed_retry_one(777, 'w', 'r'), txb.failed_discard_one(777, 'w', 'r')", set(), [SET_ASIDE]),
    ("SELECT txb.failed_change_one(777, '{}', 'w', 'r'), txb.failed_copy_one(777, 't', 'w', 'r')", set(), [SET_ASIDE, HELD]),
    ("SELECT * FROM txb.audit_list()", LOOK, []),
    ("SELECT * FROM txb.audit, txb.failed_history", LOOK, []),
    ("INSERT INTO txb.audit (action, matched, changed) VALUES ('x', 0, 0)", set(), []),
    ("UPDATE txb.audit SET person = 'x'", set(), []),
    ("DELETE FROM txb.audit", set(), []),
    ("TRUNCATE txb.audit", set(), []),
    ("DELETE FROM txb.failed_history", set(), []),
    ("SELECT txb.failed_close(NULL::txb.failed, 'discarded', 'discarded', NULL)", set(), []),
    ("INSERT INTO txb.failed (side, state, topic) VALUES ('outbox', 'dead', 't')", set(), []),
    ("UPDATE txb.failed SET state = 'resolved'", set(), []),
    ("SELECT * FROM txb.relay, txb.relay_holes, txb.relay_hold, txb.failed", RELAY | LOOK, []),
    (KNOWN, WORKER, []),
    (f"SELECT txb.offset_take('g', 't', 0, 'w1', {UUID}, 'c1')", WORKER, [KNOWN]),
    ("SELECT txb.offset_evict('g', 't', 0)", WORKER, [TAKEN]),
    ("SELECT txb.not_ok(7, NULL::txb.outcome)", WORKER, []),
    ("SELECT txb.offset_pass('g', 't', 0, 1, 0, 1)", WORKER, [TAKEN]),
    ("SELECT txb.offset_release('g', 't', 0, 1)", WORKER, [TAKEN]),
    ("SELECT txb.batch_stall('g', 't', 0, 1, 0, 1, 1000, 'retry', 'x', NULL, false)", WORKER, [TAKEN]),
    ("SELECT txb.suspect_mark('g', 't', 0, 1, 0, 1)", WORKER, [TAKEN]),
    (OPENED, WORKER, [TAKEN]),
    ("SELECT txb.batch_close('g', 't', 0, 2, 0)", WORKER, [TAKEN, OPENED]),
    (f"SELECT txb.batch_cut('g', 't', 0, 1, 1, '{V7}', 0)", WORKER, [TAKEN, OPENED]),
    (ADDED, WORKER, [TAKEN, OPENED]),
    ("SELECT * FROM txb.failed_keys('g', 't', 0, 10)", WORKER, [TAKEN]),
    (MARKED, WORKER, [TAKEN]),
    ("SELECT txb.retry_open('g', 't', 0, 1, 0)", WORKER, FAILED + [MARKED]),
    (
        "SELECT txb.retry_settle('g', 't', 0, '{}', '{}', '{}', '{}', '{}', '{}', false, 'w')",
        WORKER,
        FAILED + [MARKED, "SELECT txb.retry_open('g', 't', 0, 1, 0)"],
    ),
    ("SELECT txb.failed_condemn('g', 't', 0, 1, 1, 'x', false, 'w')", WORKER, [TAKEN]),
    ("SELECT * FROM txb.failed_history, txb.audit", LOOK, []),
    ("INSERT INTO txb.failed_history (number, event, state) VALUES (1, 'failed', 'dead')", set(), []),
    ("DELETE FROM txb.failed_history", set(), []),
    ("INSERT INTO txb.audit (action, matched, changed) VALUES ('x', 1, 1)", set(), []),
    ("UPDATE txb.audit SET reason = 'x'", set(), []),
    ("DELETE FROM txb.audit", set(), []),
    ("SELECT txb.offset_set('g', 't', 0, 5, 'c1', 'topic was recreated')", ADMIN, [TAKEN]),
    (JOB % (False, False), ADMIN, [KNOWN]),
    (JOB % (True, False), ADMIN, [KNOWN]),
    (JOB % (False, True), ADMIN, []),
    (FROM_KAFKA, ADMIN, [KNOWN]),
    ("SELECT txb.job_pause(1, 'hal')", ADMIN, STARTED),
    ("SELECT txb.job_resume(1, 'hal')", ADMIN, [*STARTED, "SELECT txb.job_pause(1, 'hal')"]),
    ("SELECT txb.job_cancel(1, 'hal', 'enough')", ADMIN, STARTED),
    ("SELECT txb.job_rate(1, 5, 'hal')", ADMIN, STARTED),
    ("SELECT txb.job_list(), txb.job_show(1)", LOOK, STARTED),
    ("SELECT txb.job_refusal('g', 'bank', NULL, '{t}', 1, 10, false, false, NULL, NULL, NULL, NULL, NULL)", LOOK, []),
    ("SELECT * FROM txb.job, txb.job_lane", LOOK, STARTED),
    ("UPDATE txb.job SET state = 'done'", set(), STARTED),
    ("UPDATE txb.job_lane SET done = true", set(), STARTED),
    ("DELETE FROM txb.job_lane", set(), STARTED),
    (f"SELECT * FROM txb.lane_claim('g', 'w1', {UUID}, 30000, 1)", WORKER, STARTED),
    (f"SELECT * FROM txb.lane_claim('g', 'w1', {UUID}, 30000, 1)", WORKER, [FIRST, KNOWN, FROM_KAFKA]),
    (f"SELECT txb.lane_pass(1, {UUID}, '{{0}}', '{{5}}', 'c1', 9)", WORKER, REBUILT),
    (f"SELECT txb.lane_error(1, {UUID}, 'no source'), txb.lane_free(1, {UUID})", WORKER, REBUILT),
    ("SELECT txb.group_waits('g')", WORKER, STARTED),
    ("SELECT txb.outbox_pin_set('j', 1, 'job 1')", RELAY | ADMIN, []),
    ("SELECT txb.outbox_unpin('j')", RELAY | ADMIN, []),
    ("SELECT * FROM txb.outbox_pin", RELAY | LOOK, []),
    ("DELETE FROM txb.outbox_pin", set(), []),
    ("SELECT * FROM txb.replay_range('bank')", RELAY | LOOK, [HELD]),
    ("UPDATE txb.consumer_offset SET batch_open = false", set(), [TAKEN]),
    ("UPDATE txb.consumer_offset SET next_offset = 7", set(), [TAKEN]),
    (
        "INSERT INTO txb.consumer_offset (group_name, topic, partition, next_offset, taken_offset, epoch) VALUES "
        "('g', 'u', 0, 0, 0, 1)",
        set(),
        [],
    ),
    ("DELETE FROM txb.consumer_offset", set(), [TAKEN]),
    ("ALTER TABLE txb.consumer_offset DISABLE TRIGGER batch_is_closed", set(), []),
    (
        f"INSERT INTO txb.inbox (group_name, message_id) VALUES ('g', '{V7}') ON CONFLICT DO NOTHING RETURNING "
        f"message_id",
        WORKER,
        [],
    ),
    (f"INSERT INTO txb.inbox_default (group_name, message_id) VALUES ('g', '{V7}')", set(), []),
    ("UPDATE txb.inbox SET run = 1", set(), []),
    ("DELETE FROM txb.inbox", set(), []),
    ("TRUNCATE txb.inbox", set(), []),
    ("UPDATE txb.inbox_state SET horizon = '-infinity'", set(), []),
    ("SELECT txb.inbox_horizon()", WORKER | LOOK, []),
    ("SELECT * FROM txb.inbox_partition, txb.inbox_state", WORKER | LOOK, []),
    ("SELECT txb.inbox_keep('g', interval '14 days')", WORKER | ADMIN, []),
    ("SELECT txb.inbox_partition_make(2, 2)", WORKER | ADMIN, []),
    ("SELECT txb.inbox_partition_drop(interval '30 days')", WORKER | ADMIN, []),
    ("SELECT txb.failed_expire('consumer', 'g', interval '30 days', 100)", RELAY | WORKER | ADMIN, []),
    (ENTERED, WORKER, []),
    (f"SELECT txb.command_leave({TO_LEAVE}, 'ok', NULL, NULL, true)", WORKER, [ENTERED]),
    (
        f"SELECT txb.command_apply({TO_LEAVE}, 'public.handler', false)",
        WORKER,
        [
            "CREATE FUNCTION public.handler(m txb.message) RETURNS txb.outcome LANGUAGE sql AS 'SELECT txb.ok()'",
            "GRANT EXECUTE ON FUNCTION public.handler TO PUBLIC",
        ],
    ),
    (
        f"SELECT txb.commands_apply(ARRAY[{TO_LEAVE}], ARRAY['g/' || {UUID}], 'public.handler', false)",
        WORKER,
        [
            "CREATE FUNCTION public.handler(m txb.message) RETURNS txb.outcome LANGUAGE sql AS 'SELECT txb.ok()'",
            "GRANT EXECUTE ON FUNCTION public.handler TO PUBLIC",
        ],
    ),
    ("SELECT txb.output_problem('1'), txb.output_size_max(), txb.refusal(txb.ok())", WORKER, []),
    ("SELECT txb.commands_enter(ARRAY['{\"txb-reply-to\": \"r\"}'::jsonb])", WORKER, []),
    (f"SELECT txb.commands_leave(ARRAY[{TO_LEAVE}], ARRAY['g/' || {UUID}], '{{NULL}}')", WORKER, [ENTERED]),
    (
        f"SELECT txb.command_run({TO_LEAVE}, txb.commands_call_text('public.handler', false), 'g/' || {UUID})",
        WORKER,
        [
            "CREATE FUNCTION public.handler(m txb.message) RETURNS txb.outcome LANGUAGE sql AS 'SELECT txb.ok()'",
            "GRANT EXECUTE ON FUNCTION public.handler TO PUBLIC",
            ENTERED,
        ],
    ),
    ("SELECT txb.commands_call_text('public.handler', false)", WORKER, []),
    ("SELECT txb.barrier_horizon()", WORKER | LOOK, []),
    ("SELECT txb.barrier_partition_make(0, 1)", WORKER, []),
    ("SELECT txb.barrier_partition_drop(interval '30 days')", WORKER, []),
    ("SELECT * FROM txb.barrier, txb.barrier_horizon", WORKER | LOOK, []),
    ("INSERT INTO txb.barrier (started_at, saga_id, step) VALUES (now(), txb.uuid_v7(), 's')", set(), []),
    ("UPDATE txb.barrier SET state = 'ok'", set(), []),
    ("DELETE FROM txb.barrier", set(), []),
    ("SELECT * FROM txb.barrier_default", set(), []),
    ("UPDATE txb.barrier_horizon SET at = now()", set(), []),
    ("SELECT txb.saga_start('order', '{}')", APP | WORKER | ADMIN, [DEPLOYED]),
    ("SELECT txb.saga_start('order', '{}', 'k')", APP | WORKER | ADMIN, [DEPLOYED]),
    ("SELECT txb.saga_start('order', '{}', coordinator => 'elsewhere')", APP | WORKER | ADMIN, []),
    (f"SELECT txb.saga_result({UUID})", APP | WORKER | ADMIN, []),
    ("SELECT txb.saga_id('order', 'k')", APP | WORKER | LOOK, []),
    (DEPLOYED, ADMIN, []),
    (f"SELECT txb.saga_decide({UUID}, 'cancel', NULL, NULL, 'no', 'hal')", ADMIN, [DEPLOYED, BEGUN]),
    ("SELECT txb.saga_problem('{}', 't')", ADMIN, []),
    ("SELECT txb.saga_coordinator_set('t')", WORKER, []),
    (BEGUN, WORKER, [DEPLOYED]),
    (f"SELECT txb.saga_load(ARRAY[{UUID}::uuid], '{{now}}')", WORKER, []),
    (f"SELECT txb.saga_events(ARRAY[{UUID}::uuid], '{{now}}')", WORKER, []),
    (
        f"SELECT txb.saga_append(ARRAY[{UUID}::uuid], '{{now}}', '{{1}}', '{{now}}', '{{start}}', '{{NULL}}', '{{NULL}}', "
        "'{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}')",
        WORKER,
        [],
    ),
    (
        f"SELECT txb.saga_finish(ARRAY[{UUID}::uuid], '{{now}}', '{{now}}', '{{completed}}', '{{NULL}}', '{{NULL}}')",
        WORKER,
        [],
    ),
    (f"SELECT txb.saga_reopen(ARRAY[{UUID}::uuid], '{{now}}')", WORKER, []),
    ("SELECT txb.saga_nested('{}')", set(), []),
    (f"SELECT txb.saga_stray_add(ARRAY[{UUID}::uuid], '{{0}}', '{{0}}', '{{x}}', '{{k}}', '{{no saga}}')", WORKER, []),
    (f"SELECT txb.saga_timer_drop('{{now}}', ARRAY[{UUID}::uuid])", WORKER, []),
    ("SELECT txb.saga_partition_make(0, 1)", WORKER, []),
    ("SELECT txb.saga_partition_drop(interval '30 days')", WORKER, []),
    ("SELECT txb.saga_keep('g', interval '30 days')", WORKER, []),
    ("SELECT * FROM txb.saga_wish", set(), []),
    ("SELECT txb.sagas_seen()", WORKER | LOOK, []),
    (LOCKED, WORKER, []),
    (f"SELECT txb.saga_unlock(ARRAY[{UUID}::uuid], ARRAY[{UUID}::uuid])", WORKER, [LOCKED, AWAITED, "SELECT txb.saga_coordinator_set('t')"]),
    ("SELECT * FROM txb.saga_lock", WORKER | LOOK, []),
    ("UPDATE txb.saga_lock SET granted = true", set(), []),
    ("DELETE FROM txb.saga_lock", set(), []),
    ("SELECT txb.expect_version('it', 1, 1)", APP | WORKER | ADMIN, []),
    (
        "SELECT * FROM txb.saga, txb.saga_coordinator, txb.saga_definition, txb.saga_end, txb.saga_event, txb.saga_stray",
        WORKER | LOOK,
        [],
    ),
    ("SELECT * FROM txb.saga_start_key", set(), []),
    ("SELECT * FROM txb.saga_default", set(), []),
    ("INSERT INTO txb.saga (id, started_at, name, version, input) VALUES (txb.uuid_v7(), now(), 'x', 1, '{}')", set(), []),
    ("UPDATE txb.saga_definition SET body = ''", set(), []),
    ("UPDATE txb.saga_event SET reason = ''", set(), []),
    ("DELETE FROM txb.saga_event", set(), []),
    ("DELETE FROM txb.saga_end", set(), []),
    ("UPDATE txb.saga_coordinator SET topic = 'x'", set(), []),
    (f"SELECT txb.saga_decide({UUID}, 'edit', 'pay', NULL, 'no', 'hal', '{{}}')", ADMIN, [DEPLOYED, BEGUN]),
    ("SELECT txb.request('rooms', 'hold', '{}', 'k', '1 s', 'replies')", APP | WORKER | ADMIN, []),
    (f"SELECT txb.request_result({UUID})", APP | WORKER | ADMIN, []),
    ("SELECT txb.request_expire('1 day', 1)", WORKER | ADMIN, []),
    ("SELECT txb.reply_topic_set('replies')", ADMIN, []),
    (f"SELECT txb.take_reply(ROW('a', {UUID}, 'replies', 0, 1, 'k', 'txb.reply', now(), '{{}}', '', '{{}}', 1)::txb.message)", WORKER, []),
    ("SELECT * FROM txb.request, txb.reply_topic", LOOK, []),
    ("SELECT * FROM txb.reply_ignored", WORKER | LOOK, []),
    ("UPDATE txb.request SET state = 'answered'", set(), []),
    ("DELETE FROM txb.request", set(), []),
    ("UPDATE txb.reply_topic SET topic = 'x'", set(), []),
    ("UPDATE txb.reply_ignored SET count = 0", set(), []),
    ("SELECT txb.json_schema_problem('true', '1', 'input')", set(), []),
    ("SELECT * FROM txb.saga_output_problems('{}', '{}')", WORKER, []),
    (
        "SELECT txb.ok(), txb.ok('{}'), txb.refuse('x'), txb.retry(interval '1 s', 'x'), txb.dead('x')",
        APP | WORKER | ADMIN,
        [],
    ),
    (
        "CREATE FUNCTION pg_temp.handler(m txb.message) RETURNS txb.outcome LANGUAGE sql AS 'SELECT txb.ok()'",
        APP | WORKER | ADMIN,
        [],
    ),
    ("SELECT txb.key_text('x')", ALL, []),
    ("SELECT txb.uuid_v7_time(txb.uuid_v7_floor(now()))", ALL, []),
    ("SELECT * FROM txb.schema_migration", ALL, []),
    ("INSERT INTO txb.schema_migration (version, name, sha256) VALUES (99, 'x', 'x')", set(), []),
    ("CREATE TABLE txb.mine (a int)", set(), []),
    ("CREATE FUNCTION txb.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'", set(), []),
    ("CREATE TEMP TABLE mine (a txb.relay)", set(), []),
    ("DROP SCHEMA txb CASCADE", set(), []),
    ("SET LOCAL ROLE txb_owner", set(), []),
    ("SET LOCAL ROLE txb_retention", RELAY, []),
]


@pytest.mark.parametrize("role", [*ROLES, "nobody"])
def test_every_statement_under_every_role(server, db, role):
    """Allowed: it succeeds. Forbidden: it fails for want of a right, and for nothing else."""
    session = server.connect(db.name, autocommit=False, user="postgres")
    wrong = []
    for statement, allowed, before in STATEMENTS:
        with session.cursor() as cursor:
            for each in before:
                cursor.execute(each)
            # What a login may do, not what it may become: SET ROLE in a superuser's session tests the same rights.
            cursor.execute(f"SET LOCAL SESSION AUTHORIZATION login_{role}")
            try:
                cursor.execute(statement)
                state = "done"
            except psycopg2.Error as error:
                state = error.pgcode
        session.rollback()
        if state not in (("done", "TXB02") if role in allowed else ("42501",)):  # TXB02: what txb.not_ok is for
            wrong.append(f"{state}: {statement}")
    session.close()
    assert wrong == []


def test_the_statements_cover_every_function_that_anybody_may_call(db):
    for name, _ in db.root.do("SELECT DISTINCT proname, 1 FROM pg_proc WHERE pronamespace = 'txb'::regnamespace"):
        if name in CALLS and not name.startswith("intent_"):
            assert any(f"txb.{name}(" in statement for statement, _, _ in STATEMENTS), name


def test_functions_are_granted_as_listed(db):
    found = {}
    for name, role in db.root.do(
        """SELECT p.proname, r FROM pg_proc AS p, unnest(%s) AS r
                                     WHERE p.pronamespace = 'txb'::regnamespace
                                       AND has_function_privilege('login_' || r, p.oid, 'EXECUTE')""",
        list(ROLES),
    ):
        found.setdefault(name, set()).add(role)
    assert found == CALLS


def test_relations_are_granted_as_listed(db):
    relations = [
        r[0]
        for r in db.root.do(
            """SELECT relname FROM pg_class WHERE relnamespace = 'txb'::regnamespace AND relkind IN ('r', 'p', 'v',
               'S')"""
        )
    ]
    reads = {}
    for relation, role in db.root.do(
        """SELECT c.relname, r FROM pg_class AS c, unnest(%s) AS r
                                         WHERE c.relnamespace = 'txb'::regnamespace AND c.relkind IN ('r', 'p', 'v',
                                           'S')
                                           AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege('login_' || r, c.oid,
                                             'SELECT')
                                                              ELSE has_any_column_privilege('login_' || r, c.oid,
                    'SELECT') END""",
        list(ROLES),
    ):
        reads.setdefault(relation, set()).add(role)
    assert reads == READS and set(READS) <= set(relations)
    writes = {}
    for relation, column, role, privilege in db.root.do(
        """
        SELECT c.relname, a.attname, r, p FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
          AND a.attnum > 0 AND NOT a.attisdropped,
               unnest(%s) AS r, unnest('{INSERT,UPDATE,REFERENCES}'::text[]) AS p
         WHERE c.relnamespace = 'txb'::regnamespace AND c.relkind IN ('r', 'p', 'v')
           AND has_column_privilege('login_' || r, c.oid, a.attnum, p)""",
        list(ROLES),
    ):
        assert privilege == "INSERT", (relation, column, role, privilege)
        writes.setdefault((relation, column), set()).add(role)
    assert writes == WRITES
    assert (
        db.root.do(
            """SELECT c.relname, r, p FROM pg_class AS c, unnest(%s) AS r,
               unnest('{DELETE,TRUNCATE,TRIGGER}'::text[]) AS p
                          WHERE c.relnamespace = 'txb'::regnamespace AND c.relkind IN ('r', 'p', 'v')
                            AND has_table_privilege('login_' || r, c.oid, p)""",
            list(ROLES),
        )
        == []
    )
    assert (
        db.root.do(
            """SELECT c.relname, r, p FROM pg_class AS c, unnest(%s) AS r, unnest('{USAGE,UPDATE}'::text[]) AS p
                          WHERE c.relnamespace = 'txb'::regnamespace AND c.relkind = 'S'
                            AND has_sequence_privilege('login_' || r, c.oid, p)""",
            list(ROLES),
        )
        == []
    )


PUBLIC = """
SELECT 'schema txb' FROM pg_namespace AS n, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) AS a
  WHERE nspname = 'txb' AND a.grantee = 0
UNION ALL
SELECT 'relation ' || c.oid::regclass FROM pg_class AS c,
       aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))) AS a
 WHERE relnamespace = 'txb'::regnamespace AND a.grantee = 0
UNION ALL
SELECT 'column ' || attrelid::regclass || '.' || attname FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid,
  aclexplode(attacl) AS a
 WHERE relnamespace = 'txb'::regnamespace AND a.grantee = 0
UNION ALL
SELECT 'function ' || p.oid::regprocedure FROM pg_proc AS p, aclexplode(coalesce(proacl, acldefault('f',
  proowner))) AS a
 WHERE pronamespace = 'txb'::regnamespace AND a.grantee = 0
UNION ALL
SELECT 'type ' || t.oid::regtype FROM pg_type AS t, aclexplode(coalesce(typacl, acldefault('T', typowner))) AS a
 WHERE typnamespace = 'txb'::regnamespace AND a.grantee = 0 AND NOT EXISTS (SELECT FROM pg_type AS e
   WHERE e.typarray = t.oid)
"""


def test_nothing_is_granted_to_public(db):
    assert db.root.do(PUBLIC) == []


def test_nothing_made_later_is_open_to_public(db):
    """Default privileges: what the next migration makes, and the partitions that functions make."""
    db.root.do(
        """SET ROLE txb_owner; CREATE TABLE txb.later (a int GENERATED ALWAYS AS IDENTITY);
           CREATE TYPE txb.later_type AS (a int);
                  CREATE FUNCTION txb.later() RETURNS int LANGUAGE sql AS 'SELECT 1'; RESET ROLE;
                    DROP TABLE txb.later"""
    )
    db.root.do(
        "SELECT txb.partition_make(1000, 12), txb.inbox_partition_make(5, 5), txb.barrier_partition_make(1, 1), "
        "txb.saga_partition_make(1, 1)"
    )
    assert db.root.do(PUBLIC) == []


def test_grants_go_to_the_roles_only(db):
    grantees = {
        r[0]
        for r in db.root.do(
            """SELECT DISTINCT a.grantee::regrole::text FROM pg_proc, aclexplode(proacl) AS a
               WHERE pronamespace = 'txb'::regnamespace
                                             UNION SELECT DISTINCT a.grantee::regrole::text FROM pg_class,
                                               aclexplode(relacl) AS a
                                                    WHERE relnamespace = 'txb'::regnamespace"""
        )
    }
    assert grantees == {f"txb_{role}" for role in ROLES} | {"txb_owner", "txb_retention"}
    # No role may pass its rights on.
    assert (
        db.root.do(
            """SELECT p.oid::regprocedure FROM pg_proc AS p, aclexplode(proacl) AS a
               WHERE pronamespace = 'txb'::regnamespace
                          AND a.is_grantable"""
        )
        == []
    )


def test_every_security_definer_function_pins_its_search_path(db):
    pinned = "search_path=pg_catalog, txb, pg_temp"
    found = db.root.do(
        """SELECT oid::regprocedure::text, proconfig FROM pg_proc WHERE pronamespace = 'txb'::regnamespace
           AND prosecdef"""
    )
    assert len(found) > 20
    assert [name for name, config in found if pinned not in (config or [])] == []


def test_everything_is_owned_by_the_owner_and_only_the_outbox_by_retention(db):
    owned = db.root.do(
        """SELECT relowner::regrole::text, relname, relkind::text FROM pg_class WHERE relnamespace = 'txb'::regnamespace
           AND relowner <> 'txb_owner'::regrole
                          UNION ALL SELECT proowner::regrole::text, proname, 'f' FROM pg_proc
                            WHERE pronamespace = 'txb'::regnamespace AND proowner <> 'txb_owner'::regrole
                          UNION ALL SELECT nspowner::regrole::text, nspname, 'n' FROM pg_namespace WHERE nspname = 'txb'
                            AND nspowner <> 'txb_owner'::regrole"""
    )
    assert sorted(owned) == [
        ("txb_retention", "outbox", "p"),
        ("txb_retention", "outbox_seq", "I"),
        ("txb_retention", "outbox_seq_seq", "S"),
    ]
    assert not db.root.one("SELECT has_schema_privilege('txb_retention', 'txb', 'CREATE')")


def test_no_role_can_log_in_and_none_is_a_superuser(db):
    roles = db.root.do("SELECT rolname FROM pg_roles WHERE rolname ~ '^txb_'")
    assert {r[0] for r in roles} == {f"txb_{role}" for role in ROLES} | {"txb_owner", "txb_retention"}
    assert (
        db.root.do(
            """SELECT rolname FROM pg_roles WHERE rolname ~ '^txb_'
                          AND (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls OR
                            rolreplication)"""
        )
        == []
    )


def test_a_relay_reaches_the_outbox_as_its_owner_only_by_set_role(db):
    relay = db.session("relay")
    assert relay.one("SELECT has_table_privilege('txb.outbox', 'TRUNCATE')") is False
    relay.do("SET ROLE txb_retention")
    assert relay.one("SELECT has_table_privilege('txb.outbox', 'TRUNCATE')") is True
    assert relay.one("SELECT has_table_privilege('txb.relay', 'UPDATE')") is False
    relay.do("RESET ROLE")


def test_the_relay_sees_the_statements_of_publishers_up_to_their_literals_and_of_nobody_else(db):
    app, other, relay = db.session("app", transaction=True), db.session("app"), db.session("relay")
    app.do("SET application_name = 'shop'")
    app.do("SELECT txb.publish('t', 'k', 'made', '\"mine\"')")
    other.do("SELECT 'a secret'")
    rows = relay.do("SELECT pid, application_name, state, query FROM txb.outbox_holders()")
    assert [r[:3] for r in rows] == [(app.pid, "shop", "idle in transaction")] and rows[0][3] == "SELECT txb.publish("
    assert relay.one("SELECT query FROM pg_stat_activity WHERE pid = %s", other.pid) == "<insufficient privilege>"


COMMENTS = """
SELECT 'schema' FROM pg_namespace WHERE nspname = 'txb' AND obj_description(oid, 'pg_namespace') IS NULL
UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relnamespace = 'txb'::regnamespace
  AND relkind IN ('r', 'p', 'v', 'S', 'c', 'i', 'I')
             AND obj_description(oid, 'pg_class') IS NULL AND NOT (relispartition AND relkind = 'i')
             AND NOT EXISTS (SELECT FROM pg_type AS t WHERE t.typrelid = pg_class.oid AND relkind = 'c'
               AND obj_description(t.oid, 'pg_type') IS NOT NULL)
UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname FROM pg_attribute
  JOIN pg_class AS c ON c.oid = attrelid
           WHERE relnamespace = 'txb'::regnamespace AND relkind IN ('r', 'p', 'v', 'c') AND attnum > 0
             AND NOT attisdropped
             AND col_description(attrelid, attnum) IS NULL
UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE pronamespace = 'txb'::regnamespace
  AND obj_description(oid, 'pg_proc') IS NULL
UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE typnamespace = 'txb'::regnamespace AND typtype IN ('e', 'd',
  'r')
             AND obj_description(oid, 'pg_type') IS NULL
UNION ALL SELECT 'constraint ' || conname || ' on ' || conrelid::regclass FROM pg_constraint AS k
  JOIN pg_class AS c ON c.oid = conrelid
           WHERE relnamespace = 'txb'::regnamespace AND NOT relispartition AND contype <> 'n' AND obj_description(k.oid,
             'pg_constraint') IS NULL
UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger AS g
  JOIN pg_class AS c ON c.oid = tgrelid
           WHERE relnamespace = 'txb'::regnamespace AND NOT tgisinternal AND tgparentid = 0 AND obj_description(g.oid,
             'pg_trigger') IS NULL
UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ '^txb_' AND shobj_description(oid,
  'pg_authid') IS NULL
"""


def test_every_object_has_a_comment(db):
    assert db.root.do(COMMENTS) == []
