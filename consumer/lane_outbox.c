/* The reader of a lane whose log is a source's outbox, page by page: see lane_reader.h. It reads below the source's
 * watermark only, where nothing can appear any more.
 *
 * One statement is under way at a time; while the worker applies a page, the next one comes. A crash at any line loses what
 * was read, and nothing else: the pin is renewed by whoever reads the lane next. */
#include <inttypes.h>
#include <stdio.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/memory.h"
#include "consumer/lane_page.h"
#include "consumer/lane_reader_internal.h"
#include "consumer/worker_internal.h"
#include "consumer_sql.h"

#define MS                 INT64_C(1000)
#define SECOND_US          INT64_C(1000000)
#define PAGE_ROWS          2000
#define PAGE_BYTES         (INT64_C(1) << 20)
#define CONNECT_TIMEOUT_US (5 * SECOND_US)
#define SESSION_TIMEOUT_MS 30000
#define PIN_US             (30 * SECOND_US)
#define LOOK_FIRST_US      (10 * MS) /* at the watermark: how soon it is looked at again, growing to ... */
#define LOOK_CAP_US        (500 * MS)
/* A page looks at so many numbers: a filter that few intents pass must not make one statement read the whole outbox. It
 * grows while answers are quick, since gaps may be long. */
#define SPAN_FIRST INT64_C(20000)
#define SPAN_MAX   (INT64_C(1) << 40)
#define QUICK_US   (20 * MS)
#define SLOW_US    (200 * MS)

enum request { REQUEST_NONE, REQUEST_FACTS, REQUEST_PAGE, REQUEST_PIN, REQUEST_UNPIN };

static const struct txb_pg_statement facts_statement = {"txb_lane_source", txb_text_lane_source},
                                     read_statement = {"txb_lane_read", txb_text_lane_read},
                                     pin_statement = {"txb_lane_pin", txb_text_lane_pin},
                                     unpin_statement = {"txb_lane_unpin", txb_text_lane_unpin};

struct outbox_reader {
  struct txb_lane_reader base; /* first: see of() */
  const char *source, *uri;
  char *name, *topic, *pin, *pin_what;
  int32_t partition;
  struct txb_buffer filter;
  struct txb_slice keys, types, time_from, time_to; /* in `filter` */
  struct txb_pg_params params;

  struct txb_pg *pg;
  bool connecting;
  int64_t connect_until_us;
  int64_t told_waits_from; /* 0: not */

  enum request request; /* under way */
  bool request_void;    /* what it answers is not wanted any more */
  bool request_highest;
  int64_t asked_us, asked_from, asked_to;
  struct txb_pg_result *answer;
  bool failed;
  struct txb_error failure;

  bool facts_known;                                              /* of this connection */
  int64_t watermark, waits_from, lowest, look_us, look_pause_us; /* waits_from, lowest 0: none */
  char event_source[300];
  bool want_highest, tell_highest;
  int64_t highest, highest_told;

  bool whole;                /* nothing may be left out that waits to be published */
  struct txb_lane_last last; /* that was given, or run before */
  bool differs;              /* and the source has another in its place, or none */
  int64_t next_seq;          /* the first number that was not looked at */
  int64_t span;
  struct txb_lane_page *page;
  int row;

  bool pinned, unpinned, want_pin, want_unpin;
  int64_t pin_lo, pin_us; /* pin_us: not before */
};

static struct outbox_reader *of(struct txb_lane_reader *reader) {
  return (struct outbox_reader *)reader;
}

static const struct outbox_reader *of_const(const struct txb_lane_reader *reader) {
  return (const struct outbox_reader *)reader;
}

static void drop_page(struct outbox_reader *r) {
  txb_lane_page_unref(r->page);
  r->page = NULL;
  r->row = 0;
}

static void forget_request(struct outbox_reader *r) {
  txb_pg_result_free(r->answer);
  r->answer = NULL;
  r->request = REQUEST_NONE;
  r->request_void = r->failed = false;
}

static void disconnect(struct txb_lane_reader *reader) {
  struct outbox_reader *r = of(reader);
  forget_request(r);
  txb_pg_close(r->pg);
  r->pg = NULL;
  r->connecting = r->facts_known = false;
}

/* ---- what the worker wants ------------------------------------------------------------------- */

static void reader_bound(struct txb_lane_reader *reader, int64_t seq_to, bool whole, int64_t rate_max) {
  struct outbox_reader *r = of(reader);
  r->base.seq_to = seq_to;
  r->whole = whole;
  txb_lane_rate_set(&r->base.rate, rate_max, txb_clock_steady_us());
}

static void reader_pin(struct txb_lane_reader *reader, int64_t lo) {
  struct outbox_reader *r = of(reader);
  if (r->unpinned)
    return;
  r->want_pin = r->want_pin || txb_clock_steady_us() >= r->pin_us;
  r->pinned = true;
  r->pin_lo = lo;
}

static void reader_pin_not(struct txb_lane_reader *reader) {
  struct outbox_reader *r = of(reader);
  r->want_pin = false;
}

static void reader_unpin(struct txb_lane_reader *reader) {
  struct outbox_reader *r = of(reader);
  r->want_unpin = r->pinned && !r->unpinned;
  r->unpinned = true;
  r->want_pin = false;
}

static void reader_ask_highest(struct txb_lane_reader *reader) {
  struct outbox_reader *r = of(reader);
  r->want_highest = true;
  r->tell_highest = r->request_highest = false;
}

static void begin(struct txb_lane_reader *reader, int64_t offset) {
  struct outbox_reader *r = of(reader);
  drop_page(r);
  /* Facts that are under way were asked with the last message of before: they would pass for the check of this one. */
  r->request_void = r->request_void || r->request == REQUEST_PAGE || r->request == REQUEST_FACTS;
  r->base.fetching = true;
  r->base.paused = r->base.tell_end = r->base.tell_range = r->facts_known = false;
  r->next_seq = r->base.given_next = offset;
  r->base.told_end = -1;
  r->look_us = 0;
  r->look_pause_us = LOOK_FIRST_US;
}

static void reader_fetch(struct txb_lane_reader *reader, int64_t offset, const struct txb_lane_last *last) {
  struct outbox_reader *r = of(reader);
  r->last = *last;
  begin(reader, offset);
}

static void reader_unfetch(struct txb_lane_reader *reader) {
  struct outbox_reader *r = of(reader);
  drop_page(r);
  r->request_void = r->request_void || r->request == REQUEST_PAGE;
  r->base.fetching = false;
}

/* ---- asking ---------------------------------------------------------------------------------- */

static enum txb_rc send(struct outbox_reader *r, enum request request, const struct txb_pg_statement *statement,
                        struct txb_error *err) {
  TXB_TRY(txb_pg_send(r->pg, statement, &r->params, err));
  TXB_TRY(txb_pg_sync(r->pg, err));
  r->request = request;
  r->request_void = false;
  r->asked_us = txb_clock_steady_us();
  return TXB_OK;
}

static enum txb_rc ask_facts(struct outbox_reader *r, struct txb_error *err) {
  r->request_highest = r->want_highest;
  r->want_highest = false;
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->source));
  txb_pg_add_text(&r->params, txb_slice_text(r->topic));
  if (r->last.seq < 0)
    txb_pg_add_null(&r->params, TXB_OID_INT8);
  else
    txb_pg_add_int8(&r->params, r->last.seq);
  txb_pg_add_uuid(&r->params, &r->last.id);
  return send(r, REQUEST_FACTS, &facts_statement, err);
}

/* What is not published although it lies below the watermark is left out, since it comes live when it is; a group that
 * goes on live at ends that were noted before has no other chance to get it. */
static bool waits_for_others(const struct outbox_reader *r) {
  return r->whole && r->waits_from > 0;
}

static int64_t readable(const struct outbox_reader *r) {
  int64_t past = r->base.seq_to <= r->watermark ? r->base.seq_to : r->watermark + 1;
  return waits_for_others(r) && r->waits_from < past ? r->waits_from : past;
}

static enum txb_rc ask_page(struct outbox_reader *r, struct txb_error *err) {
  int64_t past = readable(r);
  r->asked_from = r->next_seq;
  r->asked_to = past - r->next_seq > r->span ? r->next_seq + r->span : past;
  txb_pg_params_clear(&r->params);
  txb_pg_add_int8(&r->params, r->asked_from);
  txb_pg_add_int8(&r->params, r->asked_to);
  txb_pg_add_text(&r->params, txb_slice_text(r->topic));
  txb_pg_add_raw(&r->params, TXB_OID_BYTEA_ARRAY, r->keys);
  txb_pg_add_raw(&r->params, TXB_OID_TEXT_ARRAY, r->types);
  txb_pg_add_raw(&r->params, TXB_OID_TIMESTAMPTZ, r->time_from);
  txb_pg_add_raw(&r->params, TXB_OID_TIMESTAMPTZ, r->time_to);
  txb_pg_add_int8(&r->params, PAGE_ROWS);
  txb_pg_add_text(&r->params, txb_slice_text(r->source));
  txb_pg_add_int8(&r->params, PAGE_BYTES);
  return send(r, REQUEST_PAGE, &read_statement, err);
}

static enum txb_rc ask_pin(struct outbox_reader *r, bool set, struct txb_error *err) {
  txb_pg_params_clear(&r->params);
  txb_pg_add_text(&r->params, txb_slice_text(r->pin));
  if (set) {
    txb_pg_add_int8(&r->params, r->pin_lo);
    txb_pg_add_text(&r->params, txb_slice_text(r->pin_what));
  }
  r->pin_us = txb_clock_steady_us() + PIN_US;
  r->want_pin = r->want_unpin = false;
  return send(r, set ? REQUEST_PIN : REQUEST_UNPIN, set ? &pin_statement : &unpin_statement, err);
}

/* The next statement, if any. The pin comes before the first page: what is being read must not be dropped. */
static enum txb_rc ask(struct outbox_reader *r, int64_t now_us, struct txb_error *err) {
  if (r->want_unpin)
    return ask_pin(r, false, err);
  if (r->want_pin)
    return ask_pin(r, true, err);
  if (!r->facts_known || r->want_highest)
    return ask_facts(r, err);
  if (!r->base.fetching || r->page != NULL)
    return TXB_OK;
  if (r->next_seq < readable(r))
    return ask_page(r, err);
  txb_lane_note_end(&r->base, r->next_seq, false);
  if (r->next_seq >= r->base.seq_to || now_us < r->look_us)
    return TXB_OK;
  return ask_facts(r, err);
}

/* ---- making and ending one ------------------------------------------------------------------- */

static void keep(struct txb_buffer *buffer, struct txb_slice v) {
  if (v.data != NULL)
    txb_buffer_add(buffer, v.data, v.size);
}

/* Where each lies in the buffer, once it has its final place. */
static struct txb_slice placed(const struct txb_buffer *buffer, size_t *at, struct txb_slice v) {
  struct txb_slice s = v.data == NULL ? v : txb_slice_of(buffer->data + *at, v.size);
  *at += v.data == NULL ? 0 : v.size;
  return s;
}

static enum txb_rc fill(struct outbox_reader *r, const struct txb_lane_reader_options *o, struct txb_error *err) {
  size_t at = 0;
  TXB_TRY(txb_strdup(o->name, &r->name, err));
  TXB_TRY(txb_strdup(o->topic, &r->topic, err));
  TXB_TRY(txb_strdup(o->pin, &r->pin, err));
  TXB_TRY(txb_strdup(o->pin_what, &r->pin_what, err));
  keep(&r->filter, o->keys);
  keep(&r->filter, o->types);
  keep(&r->filter, o->time_from);
  keep(&r->filter, o->time_to);
  TXB_TRY(txb_buffer_check(&r->filter, err));
  r->keys = placed(&r->filter, &at, o->keys);
  r->types = placed(&r->filter, &at, o->types);
  r->time_from = placed(&r->filter, &at, o->time_from);
  r->time_to = placed(&r->filter, &at, o->time_to);
  return TXB_OK;
}

/* The server does what it got, whether or not anybody waits for the answer. */
static void say_last_word(struct outbox_reader *r) {
  struct txb_error ignored;
  if (r->want_unpin && r->pg != NULL && !r->connecting)
    (void)ask_pin(r, false, &ignored);
}

static void reader_free(struct txb_lane_reader *reader) {
  struct outbox_reader *r = of(reader);
  say_last_word(r);
  disconnect(reader);
  drop_page(r);
  txb_pg_params_fini(&r->params);
  txb_buffer_fini(&r->filter);
  txb_free(r->name);
  txb_free(r->topic);
  txb_free(r->pin);
  txb_free(r->pin_what);
  txb_free(r);
}

/* ---- answers --------------------------------------------------------------------------------- */

/* Retention has dropped what was not read yet, or the source is one that was restored to an earlier time. */
static void check_range(struct outbox_reader *r) {
  bool gone = r->next_seq < r->base.seq_to && r->lowest > (r->next_seq > 1 ? r->next_seq : 1);
  r->base.tell_range = r->base.fetching && (gone || r->differs || r->next_seq > r->highest + 1);
  r->base.low = r->differs ? 0 : r->lowest;
  r->base.high = r->differs ? -1 : r->highest + 1; /* nothing of what was read is there */
}

/* What people should know, once: it ends by their doing. */
static void tell_waiting(struct outbox_reader *r) {
  struct txb_error news = {.rc = TXB_OK};
  bool waits = waits_for_others(r) && r->waits_from < r->base.seq_to;
  if (waits && r->told_waits_from != r->waits_from)
    (void)TXB_FAIL(&news, TXB_REFUSED,
                   "waits for a decision about failed messages of source \"%s\" from number %" PRId64
                   " on (txbroker failed list)",
                   r->source, r->waits_from);
  r->base.tell_well = r->base.tell_well || (!waits && r->told_waits_from != 0);
  r->told_waits_from = waits ? r->waits_from : 0;
  if (news.rc == TXB_OK)
    return;
  r->base.trouble = news;
  r->base.tell_trouble = true;
}

static int64_t int8_or_none(const struct txb_pg_result *r, int column) {
  return txb_pg_is_null(r, 0, column) ? 0 : txb_pg_int8(r, 0, column);
}

static enum txb_rc take_facts(struct outbox_reader *r, struct txb_error *err) {
  const struct txb_pg_result *a = r->answer;
  if (txb_pg_is_null(a, 0, 0))
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                         "%s has no source \"%s\": no relay of that name has ever run there", txb_pg_name(r->pg),
                         r->source);
  int64_t before = r->facts_known ? r->watermark : INT64_MIN;
  r->watermark = txb_pg_int8(a, 0, 0);
  r->facts_known = true;
  snprintf(r->event_source, sizeof r->event_source, "%s", txb_pg_text(a, 0, 2));
  r->highest = txb_pg_int8(a, 0, 1);
  r->lowest = int8_or_none(a, 3);
  r->waits_from = int8_or_none(a, 4);
  r->differs = !txb_pg_bool(a, 0, 5);
  if (r->request_highest) {
    r->request_highest = false;
    r->tell_highest = true;
    r->highest_told = r->highest;
  }
  check_range(r);
  tell_waiting(r);
  r->look_pause_us = r->watermark > before            ? LOOK_FIRST_US
                     : r->look_pause_us < LOOK_CAP_US ? r->look_pause_us * 2
                                                      : LOOK_CAP_US;
  r->look_us = txb_clock_steady_us() + r->look_pause_us;
  return TXB_OK;
}

static enum txb_rc take_page(struct outbox_reader *r, struct txb_error *err) {
  const struct txb_pg_result *a = r->answer;
  int rows = txb_pg_rows(a);
  int64_t took_us = txb_clock_steady_us() - r->asked_us;
  bool cut = rows >= PAGE_ROWS || txb_lane_page_bytes(a) >= PAGE_BYTES;
  if (rows > 0) {
    /* A crash here: what was read is read again, from the position. */
    txb_failpoint("lane.after_read");
    int64_t last = txb_lane_page_seq(a, rows - 1);
    TXB_TRY(txb_lane_page_new(r->answer, r->event_source, &r->page, err));
    r->answer = NULL;
    r->row = 0;
    r->next_seq = cut ? last + 1 : r->asked_to;
  } else {
    r->next_seq = r->asked_to;
    txb_lane_note_end(&r->base, r->asked_to, true);
  }
  if (!cut && took_us < QUICK_US && r->span < SPAN_MAX)
    r->span *= 2;
  else if (took_us > SLOW_US && r->span > SPAN_FIRST)
    r->span /= 2;
  return TXB_OK;
}

static enum txb_rc answered(struct outbox_reader *r, struct txb_error *err) {
  enum txb_rc rc = TXB_OK;
  if (r->failed) {
    *err = r->failure;
    return TXB_RETRY;
  }
  if (r->request == REQUEST_FACTS && r->request_void)
    r->want_highest = r->want_highest || r->request_highest;
  else if (r->request == REQUEST_FACTS)
    rc = take_facts(r, err);
  else if (r->request == REQUEST_PAGE && !r->request_void)
    rc = take_page(r, err);
  if (rc == TXB_OK && (r->request == REQUEST_FACTS || r->request == REQUEST_PAGE))
    txb_lane_note_well(&r->base);
  forget_request(r);
  return rc;
}

/* Takes in what the server has answered. TXB_AGAIN: not all of it yet. */
static enum txb_rc receive(struct outbox_reader *r, struct txb_error *err) {
  TXB_TRY(txb_pg_pump(r->pg, err));
  while (r->request != REQUEST_NONE) {
    enum txb_pg_kind kind = TXB_PG_SYNC;
    struct txb_pg_result *result = NULL;
    struct txb_error error = {.rc = TXB_OK};
    enum txb_rc rc = txb_pg_next(r->pg, &kind, &result, &error);
    if (rc != TXB_OK) {
      if (rc != TXB_AGAIN)
        *err = error;
      return rc;
    }
    if (kind == TXB_PG_SYNC)
      return answered(r, err);
    if (kind == TXB_PG_ERROR && !r->failed) {
      r->failed = true;
      r->failure = error;
    }
    txb_pg_result_free(r->answer);
    r->answer = result;
  }
  return TXB_OK;
}

/* ---- the connection -------------------------------------------------------------------------- */

static bool has_work(const struct outbox_reader *r) {
  return r->base.fetching || r->want_highest || r->want_pin || r->want_unpin;
}

static enum txb_rc connect(struct outbox_reader *r, int64_t now_us, struct txb_error *err) {
  if (r->pg == NULL) {
    struct txb_pg_options options = {.uri = r->uri,
                                     .application_name = r->name,
                                     .stop_fd = -1,
                                     .settings = "-c plan_cache_mode=force_custom_plan -c enable_bitmapscan=off "
                                                 "-c enable_seqscan=off -c jit=off -c idle_session_timeout=0",
                                     .tcp_user_timeout_ms = SESSION_TIMEOUT_MS,
                                     .builtins_only = true};
    TXB_TRY(txb_pg_open_begin(&options, &r->pg, err));
    r->connecting = true;
    r->connect_until_us = now_us + CONNECT_TIMEOUT_US;
    return TXB_AGAIN;
  }
  enum txb_rc rc = txb_pg_open_step(r->pg, err);
  if (rc == TXB_AGAIN && now_us >= r->connect_until_us)
    return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "cannot connect to %s: no answer within %d ms",
                         txb_pg_name(r->pg), (int)(CONNECT_TIMEOUT_US / MS));
  TXB_TRY(rc);
  r->connecting = false;
  return txb_pg_pipeline_begin(r->pg, err);
}

static enum txb_rc progress(struct txb_lane_reader *reader, struct txb_error *err) {
  struct outbox_reader *r = of(reader);
  int64_t now_us = txb_clock_steady_us();
  if (r->pg == NULL && (!has_work(r) || now_us < r->base.retry_us))
    return TXB_AGAIN;
  if (r->pg == NULL || r->connecting)
    TXB_TRY(connect(r, now_us, err));
  TXB_TRY(receive(r, err));
  return ask(r, now_us, err);
}

/* ---- notices --------------------------------------------------------------------------------- */

static bool ready(const struct txb_lane_reader *reader) {
  return of_const(reader)->page != NULL;
}

static void give(struct txb_lane_reader *reader, struct txb_lane_notice *out) {
  struct outbox_reader *r = of(reader);
  out->message = txb_lane_page_give(r->page, r->row, txb_slice_text(r->topic), r->partition, &out->size);
  r->last = (struct txb_lane_last){.seq = out->message->record.offset, .id = out->message->event.id};
  if (++r->row == txb_lane_page_rows(r->page))
    drop_page(r);
}

static bool give_highest(struct txb_lane_reader *reader, struct txb_lane_notice *out) {
  struct outbox_reader *r = of(reader);
  bool any = r->tell_highest;
  r->tell_highest = false;
  *out = (struct txb_lane_notice){.kind = TXB_LANE_HIGHEST, .offset = r->highest_told};
  return any;
}

static struct pollfd reader_pollfd(const struct txb_lane_reader *reader) {
  const struct outbox_reader *r = of_const(reader);
  if (r->pg == NULL)
    return (struct pollfd){.fd = -1};
  return (struct pollfd){.fd = txb_pg_socket(r->pg), .events = txb_pg_poll_events(r->pg)};
}

static int64_t earlier(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static int64_t reader_due_us(const struct txb_lane_reader *reader) {
  const struct outbox_reader *r = of_const(reader);
  int64_t due = txb_lane_may_give(reader) ? txb_lane_rate_due_us(&r->base.rate) : INT64_MAX;
  if (r->pg == NULL)
    return has_work(r) ? earlier(due, r->base.retry_us) : due;
  if (r->connecting)
    return earlier(due, r->connect_until_us);
  if (r->request != REQUEST_NONE)
    return due;
  if (!r->facts_known || r->want_highest || r->want_pin || r->want_unpin)
    return 0;
  if (!r->base.fetching || r->page != NULL)
    return due;
  if (r->next_seq < readable(r))
    return 0;
  return r->next_seq < r->base.seq_to ? earlier(due, r->look_us) : due;
}

/* ---- as a reader ----------------------------------------------------------------------------- */

static const struct txb_lane_reader_kind kind = {.free = reader_free,
                                                 .bound = reader_bound,
                                                 .pin = reader_pin,
                                                 .pin_not = reader_pin_not,
                                                 .unpin = reader_unpin,
                                                 .ask_highest = reader_ask_highest,
                                                 .fetch = reader_fetch,
                                                 .unfetch = reader_unfetch,
                                                 .begin = begin,
                                                 .disconnect = disconnect,
                                                 .progress = progress,
                                                 .ready = ready,
                                                 .give = give,
                                                 .give_highest = give_highest,
                                                 .pollfd = reader_pollfd,
                                                 .due_us = reader_due_us};

enum txb_rc txb_lane_outbox_new(const struct txb_lane_reader_options *options, struct txb_lane_reader **out,
                                struct txb_error *err) {
  void *memory = NULL;
  TXB_TRY(txb_alloc(sizeof(struct outbox_reader), &memory, err));
  struct outbox_reader *r = memory;
  *r = (struct outbox_reader){.base = TXB_LANE_READER_OF(&kind),
                              .source = options->source,
                              .uri = options->uri,
                              .partition = -options->lane,
                              .span = SPAN_FIRST};
  txb_buffer_init(&r->filter);
  txb_pg_params_init(&r->params);
  enum txb_rc rc = fill(r, options, err);
  if (rc != TXB_OK) {
    reader_free(&r->base);
    return rc;
  }
  *out = &r->base;
  return TXB_OK;
}
