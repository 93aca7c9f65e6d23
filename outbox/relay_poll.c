/* Polls, listings and last looks. All are read-only: a crash between any of them loses nothing but work. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/memory.h"
#include "outbox/relay_internal.h"
#include "outbox_sql.h"

static const struct txb_pg_statement state_statement = {"relay_state", txb_text_relay_state};
static const struct txb_pg_statement holes_statement = {"relay_read_holes", txb_text_relay_read_holes};
static const struct txb_pg_statement drain_statement = {"relay_read_drain", txb_text_relay_read_drain};
static const struct txb_pg_statement tail_statement = {"relay_read_tail", txb_text_relay_read_tail};
static const struct txb_pg_statement few_statement = {"relay_read_few", txb_text_relay_read_few};
static const struct txb_pg_statement list_statement = {"relay_list_holders", txb_text_relay_list_holders};
static const struct txb_pg_statement look_statement = {"relay_last_look", txb_text_relay_last_look};
static const struct txb_pg_statement flushed_statement = {"relay_flushed", txb_text_relay_flushed};

#define ROW_OVERHEAD 200 /* what libpq's result holds for a row beside payload and key */

enum { BRANCH_HOLES, BRANCH_DRAIN, BRANCH_TAIL, BRANCHES };

/* ---- results ---------------------------------------------------------------------------------------------------- */

void txb_relay_result_unref(struct txb_relay_result *result) {
  if (result == NULL || --result->refs > 0)
    return;
  txb_pg_result_free(result->result);
  txb_free(result);
}

void txb_relay_poll_drop(struct txb_relay *r) {
  for (int i = 0; i < BRANCHES; i++)
    txb_relay_result_unref(txb_steal(r->poll_results[i]));
}

/* ---- sending ---------------------------------------------------------------------------------------------------- */

/* The ranges as two arrays, and the numbers that enclose them all. */
static void add_ranges(struct txb_pg_params *p, const struct txb_range *ranges, size_t count) {
  int64_t lowest = INT64_MAX, highest = 0;
  txb_pg_array_begin(p, TXB_OID_INT8);
  for (size_t i = 0; i < count; i++) {
    txb_pg_array_int8(p, ranges[i].lo);
    lowest = ranges[i].lo < lowest ? ranges[i].lo : lowest;
  }
  txb_pg_array_end(p);
  txb_pg_array_begin(p, TXB_OID_INT8);
  for (size_t i = 0; i < count; i++) {
    txb_pg_array_int8(p, ranges[i].hi);
    highest = ranges[i].hi > highest ? ranges[i].hi : highest;
  }
  txb_pg_array_end(p);
  txb_pg_add_int8(p, lowest);
  txb_pg_add_int8(p, highest);
}

static bool has_branch(const struct txb_relay_poll *poll, int branch) {
  if (branch == BRANCH_HOLES)
    return poll->hole_count > 0;
  if (branch == BRANCH_DRAIN)
    return poll->drain != TXB_DRAIN_NONE && (poll->drain == TXB_DRAIN_LOOSE || poll->drain_from <= poll->drain_to);
  return poll->bound > poll->after;
}

static enum txb_rc send_drain(struct txb_relay *r, const struct txb_relay_poll *poll, struct txb_error *err) {
  const struct txb_relay_topic_name *topic = &r->topics.items[poll->drain_topic];
  struct txb_pg_params *p = &r->params;
  if (poll->drain == TXB_DRAIN_KEYS)
    return txb_relay_send_keys_page(r, poll, err);
  if (poll->drain == TXB_DRAIN_LOOSE)
    return txb_relay_send_loose_page(r, poll, err);
  txb_pg_params_clear(p);
  txb_pg_add_int8(p, poll->drain_from);
  txb_pg_add_int8(p, poll->drain_to);
  txb_pg_add_text(p, txb_slice_of(topic->name, topic->size));
  txb_pg_add_int4(p, (int32_t)poll->rows);
  txb_pg_add_int8(p, poll->bytes);
  txb_pg_add_text(p, txb_slice_text(r->o->source));
  return txb_pg_send(r->pg, &drain_statement, p, err);
}

static enum txb_rc send_tail(struct txb_relay *r, const struct txb_relay_poll *poll, struct txb_error *err) {
  struct txb_pg_params *p = &r->params;
  txb_pg_params_clear(p);
  txb_pg_add_int8(p, poll->after);
  txb_pg_add_int8(p, poll->bound);
  txb_pg_add_int4(p, (int32_t)poll->tail_rows);
  if (!poll->tail_few)
    txb_pg_add_int8(p, poll->bytes);
  return txb_pg_send(r->pg, poll->tail_few ? &few_statement : &tail_statement, p, err);
}

enum txb_rc txb_relay_send_poll(struct txb_relay *r, const struct txb_relay_poll *poll, struct txb_error *err) {
  struct txb_pg_params *p = &r->params;
  r->poll = *poll;
  TXB_TRY(txb_pg_send(r->pg, &state_statement, NULL, err));
  if (has_branch(poll, BRANCH_HOLES)) {
    txb_pg_params_clear(p);
    add_ranges(p, poll->holes, poll->hole_count);
    txb_pg_add_int4(p, (int32_t)poll->rows);
    txb_pg_add_int8(p, poll->bytes);
    TXB_TRY(txb_pg_send(r->pg, &holes_statement, p, err));
  }
  if (has_branch(poll, BRANCH_DRAIN))
    TXB_TRY(send_drain(r, poll, err));
  if (has_branch(poll, BRANCH_TAIL))
    TXB_TRY(send_tail(r, poll, err));
  r->answer = (struct txb_relay_answer){.poll = poll->number};
  return txb_relay_request_sent(r, TXB_REQUEST_POLL, err);
}

enum txb_rc txb_relay_send_list(struct txb_relay *r, struct txb_error *err) {
  TXB_TRY(txb_pg_send(r->pg, &list_statement, NULL, err));
  return txb_relay_request_sent(r, TXB_REQUEST_LIST, err);
}

enum txb_rc txb_relay_send_look(struct txb_relay *r, const struct txb_range *ranges, size_t count,
                                struct txb_error *err) {
  txb_pg_params_clear(&r->params);
  add_ranges(&r->params, ranges, count);
  TXB_TRY(txb_pg_send(r->pg, &look_statement, &r->params, err));
  return txb_relay_request_sent(r, TXB_REQUEST_LOOK, err);
}

enum txb_rc txb_relay_send_flushed(struct txb_relay *r, struct txb_error *err) {
  r->flush_us = 0;
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->lsn));
  TXB_TRY(txb_pg_send(r->pg, &flushed_statement, &r->params, err));
  return txb_relay_request_sent(r, TXB_REQUEST_FLUSHED, err);
}

/* ---- a poll's answers ------------------------------------------------------------------------------------------- */

/* "xmin:xmax:xip,xip,..." as pg_current_snapshot() prints it. */
static enum txb_rc take_snapshot(struct txb_relay *r, const char *text, struct txb_error *err) {
  struct txb_snapshot *s = &r->answer.snapshot;
  char *end;
  *s = (struct txb_snapshot){0};
  (void)strtoull(text, &end, 10);
  TXB_ASSERT(*end == ':');
  s->xmax = strtoull(end + 1, &end, 10);
  TXB_ASSERT(*end == ':');
  while (*++end != '\0') {
    if (s->xip_count == r->xip_capacity) {
      size_t capacity = r->xip_capacity == 0 ? 64 : r->xip_capacity * 2;
      void *p = r->xip;
      TXB_TRY(txb_realloc_array(&p, capacity, sizeof *r->xip, err));
      r->xip = p;
      r->xip_capacity = capacity;
    }
    r->xip[s->xip_count++] = strtoull(end, &end, 10);
    if (*end == '\0')
      break;
    TXB_ASSERT(*end == ',');
  }
  s->xip = r->xip;
  return TXB_OK;
}

static enum txb_rc take_state(struct txb_relay *r, const struct txb_pg_result *result, struct txb_error *err) {
  struct txb_relay_answer *a = &r->answer;
  if (txb_pg_rows(result) == 1 && !txb_pg_is_null(result, 0, 0)) {
    a->epoch = txb_pg_int8(result, 0, 0);
    if (!txb_pg_is_null(result, 0, 1))
      txb_pg_uuid(result, 0, 1, &a->instance);
    a->checkpoint = txb_pg_int8(result, 0, 2);
  }
  a->recovering = txb_pg_bool(result, 0, 4);
  a->drawn = txb_pg_int8(result, 0, 5);
  a->decided = txb_pg_bool(result, 0, 8);
  const char *isolation = txb_pg_text(result, 0, 6), *lsn = txb_pg_text(result, 0, 7);
  const char *source = txb_pg_text(result, 0, 9);
  /* Without the one each statement of a poll would have a snapshot of its own, and rows could be lost or swapped;
   * without the other the position of no source is seen, or of another one. */
  if (strcmp(isolation, "repeatable read") != 0 || source == NULL || strcmp(source, r->o->source) != 0)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_SAFETY,
                         "the connection to %s has lost its settings (it runs its transactions as \"%s\", set was "
                         "\"repeatable read\"; its source is \"%s\"): a pooler between? Connect to the server itself "
                         "or let the pooler work by session",
                         txb_pg_name(r->pg), isolation, source == NULL ? "" : source);
  snprintf(r->lsn, sizeof r->lsn, "%s", lsn == NULL || !r->o->wait_flush ? "" : lsn);
  return take_snapshot(r, txb_pg_text(result, 0, 3), err);
}

/* Commands of sagas and their answers, which have their saga's number for their key, have no order and hold nothing: a
 * compensation would wait for ever behind its action that Kafka refuses (S1). The server prints a name and its text in
 * one way only, and quotes within texts are escaped. */
static bool is_keyed_by_its_saga(const struct txb_pg_result *result, int i, struct txb_slice key) {
  static const char name[] = "\"txb-saga\": \"";
  const size_t name_size = sizeof name - 1;
  if (key.data == NULL || txb_pg_is_null(result, i, 7) || !txb_pg_is_null(result, i, 10))
    return false;
  struct txb_slice headers = txb_pg_jsonb(result, i, 7);
  const char *found = memmem(headers.data, headers.size, name, name_size);
  if (found == NULL)
    return false;
  const char *value = found + name_size;
  size_t left = headers.size - (size_t)(value - (const char *)headers.data);
  return left > key.size && memcmp(value, key.data, key.size) == 0 && value[key.size] == '"';
}

static enum txb_rc reserve_rows(struct txb_relay *r, int branch, size_t count, struct txb_error *err) {
  if (count <= r->rows_capacity[branch])
    return TXB_OK;
  void *p = r->rows[branch];
  TXB_TRY(txb_realloc_array(&p, count, sizeof *r->rows[branch], err));
  r->rows[branch] = p;
  r->rows_capacity[branch] = count;
  return TXB_OK;
}

/* Columns of the reads: 0 seq, 1 id, 2 topic, 3 key, 4 type, 5 payload, 6 content_type, 7 headers, 8 created_at, 9
 * size, 10 origin, 11 the key that is sent where it is not 3; of what may have failed also 12 its number in txb.failed, 13 the
 * verdict as enum txb_relay_verdict. */
static enum txb_rc take_rows(struct txb_relay *r, int branch, const struct txb_pg_result *result,
                             struct txb_relay_read *read, struct txb_error *err) {
  size_t count = (size_t)txb_pg_rows(result);
  bool failed = branch == BRANCH_DRAIN && r->poll.drain != TXB_DRAIN_TOPIC;
  int64_t bytes = 0;
  TXB_TRY(reserve_rows(r, branch, count, err));
  for (size_t i = 0; i < count; i++) {
    struct txb_relay_row *row = &r->rows[branch][i];
    int32_t size = txb_pg_int4(result, (int)i, 9);
    row->seq = txb_pg_int8(result, (int)i, 0);
    row->key = txb_pg_bytes(result, (int)i, 3);
    row->sent_key = txb_pg_bytes(result, (int)i, 11);
    if (is_keyed_by_its_saga(result, (int)i, row->key)) {
      row->sent_key = row->key;
      row->key = (struct txb_slice){0};
    }
    row->failed = failed ? txb_pg_int8(result, (int)i, 12) : 0;
    row->verdict = failed ? (enum txb_relay_verdict)txb_pg_int4(result, (int)i, 13) : TXB_VERDICT_NONE;
    /* The core takes what lies between two rows for dead or still to come: a plan that gave them otherwise must not
     * become a loss. */
    if (i > 0 && row->seq <= row[-1].seq)
      return TXB_FAIL(err, TXB_FATAL, "rows %lld and %lld came out of order from %s", (long long)row[-1].seq,
                      (long long)row->seq, txb_pg_name(r->pg));
    row->bytes = (uint32_t)size + (uint32_t)row->key.size + (uint32_t)row->sent_key.size + ROW_OVERHEAD;
    row->row = (uint32_t)i;
    bytes += size;
    TXB_TRY(txb_relay_topics_number(&r->topics, txb_pg_bytes(result, (int)i, 2), &row->topic, err));
  }
  read->rows = r->rows[branch];
  read->count = count;
  bool few = branch == BRANCH_TAIL && r->poll.tail_few;
  read->cut = count >= (branch == BRANCH_TAIL ? r->poll.tail_rows : r->poll.rows) || (!few && bytes >= r->poll.bytes);
  return TXB_OK;
}

enum txb_rc txb_relay_take_poll(struct txb_relay *r, int statement, struct txb_pg_result *taken,
                                struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *result = taken;
  struct txb_relay_read *const reads[BRANCHES] = {&r->answer.holes, &r->answer.drain, &r->answer.tail};
  if (statement == 0)
    return take_state(r, result, err);
  int branch = 0;
  for (;; branch++) { /* the statement-th of those that were sent */
    TXB_ASSERT(branch < BRANCHES);
    if (has_branch(&r->poll, branch) && --statement == 0)
      break;
  }
  TXB_TRY(take_rows(r, branch, result, reads[branch], err));
  if (reads[branch]->count == 0)
    return TXB_OK;
  void *p;
  TXB_TRY(txb_alloc(sizeof(struct txb_relay_result), &p, err));
  struct txb_relay_result *kept = p;
  *kept = (struct txb_relay_result){.result = txb_steal(result), .refs = 1};
  txb_relay_result_unref(r->poll_results[branch]);
  r->poll_results[branch] = kept;
  reads[branch]->owner = kept;
  return TXB_OK;
}

static enum txb_rc poll_to_core(struct txb_relay *r, struct txb_error *err) {
  struct txb_relay_event event = {.kind = TXB_RELAY_POLLED};
  event.u.answer = r->answer;
  /* The step may send the next poll, whose answer replaces these: the rows that were taken keep their results. */
  struct txb_relay_result *results[BRANCHES];
  for (int i = 0; i < BRANCHES; i++)
    results[i] = txb_steal(r->poll_results[i]);
  txb_backoff_reset(
      &r->retry); /* only now: a server that gives the lease and then no answer is not asked for it all the time */
  enum txb_rc rc = txb_relay_step(r, &event, err);
  for (int i = 0; i < BRANCHES; i++)
    txb_relay_result_unref(results[i]);
  return rc;
}

enum txb_rc txb_relay_poll_done(struct txb_relay *r, struct txb_error *err) {
  txb_failpoint("relay.after_poll");
  bool rows = r->answer.holes.count + r->answer.drain.count + r->answer.tail.count > 0;
  if (rows && r->lsn[0] != '\0')
    return txb_relay_send_flushed(r, err);
  return poll_to_core(r, err);
}

/* R8: what is not on disk may be lost by a crash of the server, and must not be known to anybody then. */
enum txb_rc txb_relay_take_flushed(struct txb_relay *r, const struct txb_pg_result *result, struct txb_error *err) {
  if (txb_pg_bool(result, 0, 0))
    return poll_to_core(r, err);
  r->flush_us = txb_clock_steady_us() + 2000; /* the WAL writer is at it, every wal_writer_delay */
  return TXB_OK;
}

/* ---- listings --------------------------------------------------------------------------------------------------- */

static void take_holder(const struct txb_pg_result *result, int row, struct txb_holder *out) {
  const char *text = txb_pg_text(result, row, 0); /* "backend/local" */
  char *end;
  out->backend = (int32_t)strtol(text, &end, 10);
  TXB_ASSERT(*end == '/');
  out->local = (uint32_t)strtoul(end + 1, &end, 10);
  TXB_ASSERT(*end == '\0');
  out->xid = txb_pg_is_null(result, row, 1) ? 0 : (uint32_t)txb_pg_int8(result, row, 1);
  out->pid = txb_pg_int4(result, row, 2);
}

enum txb_rc txb_relay_take_list(struct txb_relay *r, const struct txb_pg_result *result, struct txb_error *err) {
  size_t count = (size_t)txb_pg_rows(result);
  if (count > r->holder_capacity) {
    void *p = r->holders;
    TXB_TRY(txb_realloc_array(&p, count * 2, sizeof *r->holders, err));
    r->holders = p;
    r->holder_capacity = count * 2;
  }
  for (size_t i = 0; i < count; i++)
    take_holder(result, (int)i, &r->holders[i]);
  return txb_relay_step(
      r, &(struct txb_relay_event){.kind = TXB_RELAY_LISTED, .u.listing = {.holders = r->holders, .count = count}},
      err);
}
