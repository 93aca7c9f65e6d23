/* What an error of a batch or a retry means: whose it is, what class it has (consumer/failure_class.h), and what the core
 * is told. Everything of that transaction is rolled back by then. */
#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/log.h"
#include "consumer/worker_internal.h"

#define TELL_US INT64_C(1000000)

/* Whether what failed ran behind BEGIN and the fence, which are ours alone: the handler, or something that it changed. */
static bool is_handler_s(const txb_worker_t *w) {
  const struct txb_worker_operation *o = &w->operation;
  if (o->phase == TXB_PHASE_CHUNK)
    return o->failed_answer >= w->isolated.first_answer;
  if (o->phase != TXB_PHASE_COMMIT)
    return false;
  if (o->own) /* deferred triggers of the user's tables run there */
    return o->failed_answer >= o->commit_answer;
  return !txb_worker_is_sql(w, o->action.slot) || o->failed_answer > 1;
}

/* Shutting down, read-only, session ended: a new connection. But the text of an SQLSTATE may be about another server: a
 * handler that asks one by dblink or postgres_fdw raises the same when that one is away. A connection of ours that is
 * over gives no answer to the sync behind the error, so one that still can be used was not meant. */
bool txb_worker_is_away(const txb_worker_t *w, const struct txb_error *error) {
  bool resources = strncmp(error->sqlstate, "53", 2) == 0 || strncmp(error->sqlstate, "58", 2) == 0;
  if (error->rc != TXB_RETRY || error->origin != TXB_ORIGIN_POSTGRES || resources)
    return false;
  return !is_handler_s(w) || !txb_pg_is_usable(w->pg);
}

#define DIED "the process or its database session died twice while this message ran alone"

/* Which of the two it was, nobody who lives has seen: the log of the process that died has. */
const char *txb_worker_died(const txb_worker_t *w) {
  return w->watchdog != NULL ? DIED " (a crash, or longer than handler.timeout_ms: the log of who died says which)"
                             : DIED;
}

#define TOO_OLD "the message is older than what the inbox remembers"

/* W7: what the inbox no longer remembers can't be told from a repetition, and its CHECK says so in its own way. */
static void explain(struct txb_error *error) {
  if (strcmp(error->sqlstate, "23514") == 0 && strstr(error->message, "\"inbox_horizon\"") != NULL)
    snprintf(error->message, sizeof error->message,
             TOO_OLD " (txb.inbox_horizon()), so it can't be told from one that was applied before; "
                     "workers.inbox_keep_ms must be longer than the topic's retention");
}

static bool is_too_old(const struct txb_error *error) {
  return strncmp(error->message, TOO_OLD, strlen(TOO_OLD)) == 0;
}

/* "offset=17 outcome=retry after_ms=5000: text", as txb.not_ok raises it. The text stays in the error. */
static void read_outcome(const txb_worker_t *w, const struct txb_worker_source *source, int32_t count,
                         struct txb_worker_verdict *v) {
  long long offset = -1, after_ms = 0;
  int end = 0;
  char text[sizeof v->why.message];
  snprintf(text, sizeof text, "%s", v->why.message);
  if (sscanf(text, "offset=%lld outcome=%15s after_ms=%lld: %n", &offset, v->outcome, &after_ms, &end) == 3 && end > 0)
    snprintf(v->why.message, sizeof v->why.message, "%s", text + end);
  v->after_ms = after_ms;
  v->why.sqlstate[0] = '\0';
  for (int32_t i = 0; i < count && v->at < 0; i++) {
    struct txb_worker_item item;
    txb_worker_item_of(w, source, (uint32_t)i, &item);
    v->at = item.offset == offset ? i : -1;
  }
}

void txb_worker_verdict_of(const txb_worker_t *w, const struct txb_worker_source *source, const struct txb_error *error,
                           struct txb_worker_verdict *out) {
  *out = (struct txb_worker_verdict){.at = -1, .outcome = "error", .why = *error};
  explain(&out->why);
  if (error->rc == TXB_POISON)
    read_outcome(w, source, source->rows != NULL ? txb_pg_rows(source->rows) : source->batch->count, out);
}

struct txb_failure_meaning txb_worker_meaning(const txb_worker_t *w, const struct txb_worker_verdict *v) {
  if (v->put_off)
    return (struct txb_failure_meaning){.class = TXB_CLASS_FREE, .error_class = "conflict"};
  if (is_too_old(&v->why)) /* and grows only older */
    return (struct txb_failure_meaning){.class = TXB_CLASS_DEAD, .error_class = "error"};
  if (v->why.sqlstate[0] == '\0')
    return txb_failure_of(txb_failure_cause_of(v->outcome), NULL, true);
  return txb_failure_of(TXB_CAUSE_SQLSTATE, v->why.sqlstate, txb_pg_is_usable(w->pg));
}

void txb_worker_blame(txb_worker_t *w, const struct txb_worker_verdict *v) {
  struct txb_worker_place *place = &w->places[w->operation.action.slot];
  struct txb_failure_meaning meaning = txb_worker_meaning(w, v);
  const struct txb_worker_action *a = &w->operation.action;
  if (meaning.class == TXB_CLASS_FREE && a->patience_over && a->count == 1 && !v->put_off)
    meaning = txb_failure_of(TXB_CAUSE_CONFLICT, NULL, true);
  w->verdict = txb_worker_event_now(TXB_WE_FAILED, w->operation.action.slot);
  w->verdict.failure = meaning.class == TXB_CLASS_FREE   ? TXB_FAILURE_CONFLICT
                       : meaning.class == TXB_CLASS_WAIT ? TXB_FAILURE_WAIT
                                                         : TXB_FAILURE_ERROR;
  w->verdict.at = v->at;
  w->verdict.after_ms = v->after_ms;
  place->error = v->why;
  place->error_class = meaning.error_class;
  place->failure_class = meaning.class;
  snprintf(place->outcome, sizeof place->outcome, "%s", v->outcome);
}

static void tell_fenced(const txb_worker_t *w, const struct txb_error *error) {
  const struct txb_worker_place *place = &w->places[w->operation.action.slot];
  txb_log(TXB_LOG_WARN, TXB_MSG("fenced: somebody else has this partition now; asking the group"),
          TXB_F("topic", place->topic), TXB_FI("partition", place->partition), TXB_F("error", error->message));
}

enum txb_rc txb_worker_failed(txb_worker_t *w, const struct txb_worker_source *source, struct txb_error *err) {
  const struct txb_error *error = &w->operation.error;
  struct txb_worker_verdict verdict;
  if (txb_worker_is_away(w, error)) {
    *err = *error;
    return error->rc;
  }
  if (error->rc == TXB_FENCED) {
    tell_fenced(w, error);
    w->verdict = txb_worker_event_now(TXB_WE_FENCED, w->operation.action.slot);
  } else if (strcmp(error->sqlstate, "TXB05") == 0 && !is_handler_s(w)) {
    w->verdict = txb_worker_event_now(TXB_WE_KEYS_CHANGED, w->operation.action.slot);
  } else {
    txb_worker_verdict_of(w, source, error, &verdict);
    txb_worker_blame(w, &verdict);
  }
  return txb_worker_batch_rollback(w, err);
}

struct txb_failed_policy txb_worker_policy(const txb_worker_t *w) {
  const struct txb_worker_settings *s = w->settings;
  return (struct txb_failed_policy){.attempts_max = s->retry_attempts_max,
                                    .first_ms = s->retry_first_ms,
                                    .cap_ms = s->retry_cap_ms,
                                    .factor = s->retry_factor,
                                    .release = s->retry_on_dead == TXB_ON_DEAD_RELEASE};
}

void txb_worker_tell_aside(txb_worker_t *w, const struct txb_worker_item *item, const char *state, int32_t attempt,
                           const char *error_class, const char *error) {
  int64_t now_us = txb_clock_steady_us();
  if (w->told_aside_us != 0 && now_us - w->told_aside_us < TELL_US) {
    w->untold_aside++;
    return;
  }
  const struct txb_worker_place *place = &w->places[w->operation.action.slot];
  bool dead = strcmp(state, "dead") == 0;
  txb_log(TXB_LOG_WARN,
          TXB_MSG(dead ? "message set aside for good: a person must decide (txbroker failed list)"
                       : "message set aside, and tried again later"),
          TXB_F("group", w->settings->group), TXB_F("topic", place->topic), TXB_FI("partition", place->partition),
          TXB_FI("offset", item->offset), TXB_FB(item->key.data != NULL ? "key" : NULL, item->key),
          TXB_FI("attempt", attempt), TXB_F("class", error_class), TXB_F("error", error),
          (struct txb_field){
              .name = w->untold_aside > 0 ? "others_since" : NULL, .kind = TXB_FIELD_INT, .number = w->untold_aside});
  w->told_aside_us = now_us;
  w->untold_aside = 0;
}

void txb_worker_tell_unsettled(txb_worker_t *w, const struct txb_worker_place *place) {
  int64_t now_us = txb_clock_steady_us();
  if (w->told_unsettled_us != 0 && now_us - w->told_unsettled_us < TELL_US)
    return;
  w->told_unsettled_us = now_us;
  txb_log(TXB_LOG_WARN,
          TXB_MSG("what became of a failed message can't be stored: it stays as it was, and is tried again"),
          TXB_F("group", w->settings->group), TXB_F("topic", place->topic), TXB_FI("partition", place->partition),
          TXB_F("error", place->error.message));
}
