/* tail: messages of a topic as JSON lines that `publish --jsonl` takes again. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/cli.h"
#include "common/base64.h"
#include "common/clock.h"
#include "common/kafka_tail.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define CONNECT_MS       10000
#define WAIT_MS          1000

static void member(struct txb_buffer *out, const char *name, struct txb_slice value) {
  if (value.data == NULL)
    return;
  txb_buffer_addf(out, ",\"%s\":", name);
  txb_buffer_add_json(out, value);
}

/* Text as it is; bytes that are not text under the name with _base64. */
static void bytes_member(struct txb_buffer *out, const char *name, const char *suffix, struct txb_slice value) {
  if (value.data == NULL)
    return;
  if (txb_slice_is_text(value)) {
    txb_buffer_addf(out, ",\"%s%s\":", name, suffix);
    txb_buffer_add_json(out, value);
    return;
  }
  txb_buffer_addf(out, ",\"%s_base64\":\"", name);
  txb_base64_encode(value, out);
  txb_buffer_add_text(out, "\"");
}

static bool says_json(struct txb_slice content_type) {
  static const char *const kinds[] = {"application/json", "text/json"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(kinds); i++) {
    size_t size = strlen(kinds[i]);
    if (content_type.size >= size && strncasecmp(content_type.data, kinds[i], size) == 0)
      return true;
  }
  return content_type.size > 5 && memmem(content_type.data, content_type.size, "+json", 5) != NULL;
}

/* JSON on one line goes into the line as it is, byte for byte; what is not JSON, or has line breaks, as text. */
static void payload_member(struct txb_buffer *out, struct txb_slice content_type, struct txb_slice value) {
  if (value.data == NULL)
    return;
  bool one_line =
      value.size > 0 && memchr(value.data, '\n', value.size) == NULL && memchr(value.data, '\r', value.size) == NULL;
  if (says_json(content_type) && one_line && txb_slice_is_text(value)) {
    json_error_t ignored;
    json_t *parsed =
        json_loadb(value.data, value.size, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &ignored);
    if (parsed != NULL) {
      json_decref(parsed);
      txb_buffer_add_text(out, ",\"payload\":");
      txb_buffer_add(out, value.data, value.size);
      return;
    }
  }
  bytes_member(out, "payload", "_text", value);
}

static bool is_envelope(struct txb_slice name) {
  return (name.size >= 3 && strncasecmp(name.data, "ce_", 3) == 0) ||
         (name.size == 12 && strncasecmp(name.data, "content-type", 12) == 0);
}

static bool comes_again(const struct txb_record *r, size_t index) {
  for (size_t i = index + 1; i < r->header_count; i++)
    if (txb_slice_equal(r->headers[i].name, r->headers[index].name))
      return true;
  return false;
}

static void headers_member(struct txb_buffer *out, const struct txb_record *r) {
  bool first = true;
  for (size_t i = 0; i < r->header_count; i++) {
    const struct txb_header *h = &r->headers[i];
    if (is_envelope(h->name) || comes_again(r, i))
      continue;
    txb_buffer_add_text(out, first ? ",\"headers\":{" : ",");
    first = false;
    txb_buffer_add_json(out, h->name);
    txb_buffer_add_text(out, ":");
    if (h->value.data == NULL) {
      txb_buffer_add_text(out, "null");
    } else if (txb_slice_is_text(h->value)) {
      txb_buffer_add_json(out, h->value);
    } else {
      txb_buffer_add_text(out, "{\"base64\":\"");
      txb_base64_encode(h->value, out);
      txb_buffer_add_text(out, "\"}");
    }
  }
  txb_buffer_add_text(out, first ? "" : "}");
}

static void print_record(const struct txb_record *r, struct txb_buffer *out) {
  struct txb_event event;
  char text[40];
  txb_event_parse(r, &event);
  txb_buffer_clear(out);
  txb_buffer_add_text(out, "{\"topic\":");
  txb_buffer_add_json(out, r->topic);
  txb_buffer_addf(out, ",\"partition\":%d,\"offset\":%" PRId64, r->partition, r->offset);
  if (r->timestamp_ms >= 0) {
    /* any number, from any producer; a clock that is formatted ends at the year 9999 */
    txb_clock_format(r->timestamp_ms > INT64_MAX / 1000 ? INT64_MAX : r->timestamp_ms * 1000, text);
    member(out, "timestamp", txb_slice_text(text));
  }
  bytes_member(out, "key", "", r->key);
  txb_uuid_format(&event.id, text);
  member(out, "id", txb_slice_text(text));
  if (event.foreign)
    txb_buffer_add_text(out, ",\"foreign\":true");
  member(out, "source", event.source);
  member(out, "type", event.type);
  if (event.time_us > 0) {
    txb_clock_format(event.time_us, text);
    member(out, "time", txb_slice_text(text));
  }
  member(out, "content_type", event.content_type);
  headers_member(out, r);
  payload_member(out, event.content_type, r->value);
  txb_buffer_add_text(out, "}\n");
  txb_print_buffer(out);
  if (event.problem != NULL)
    txb_say("%.*s/%d/%" PRId64 ": %s", (int)r->topic.size, (const char *)r->topic.data, r->partition, r->offset,
            event.problem);
}

static enum txb_rc take_options(const struct txb_cli *cli, struct txb_tail_options *o, long long *count, bool *follow,
                                struct txb_error *err) {
  const struct txb_args *args = &cli->args;
  const char *from = txb_args_text(args, "from");
  long long partition = -1;
  /* Kafka answers a name that can't be with whatever it thinks of it. */
  const char *wrong = txb_settings_key(txb_settings_section("workers"), "topics")->check(args->operands[0]);
  if (wrong != NULL)
    return REFUSE(err, "topic \"%s\" %s", args->operands[0], wrong);
  TXB_TRY(txb_args_integer(args, "partition", 0, INT32_MAX, &partition, err));
  TXB_TRY(txb_args_integer(args, "count", 1, INT64_MAX, count, err));
  *follow = txb_args_has(args, "follow");
  *o = (struct txb_tail_options){.kafka = txb_cli_cluster(cli, "txbroker-tail"),
                                 .topic = args->operands[0],
                                 .partition = (int)partition,
                                 .from = TXB_TAIL_BEGINNING,
                                 .timeout_ms = CONNECT_MS};
  if (from == NULL || strcmp(from, "beginning") == 0)
    return TXB_OK;
  if (strcmp(from, "end") == 0) {
    o->from = TXB_TAIL_END;
    *follow = true;
    return TXB_OK;
  }
  char *end = NULL;
  errno = 0;
  o->from = TXB_TAIL_OFFSET;
  o->offset = strtoll(from, &end, 10);
  if (*from == '\0' || *end != '\0' || errno != 0 || o->offset < 0)
    return REFUSE(err, "--from: \"%s\" is neither beginning, nor end, nor an offset", from);
  return TXB_OK;
}

/* A cluster that goes away is waited for, with one message when it goes and one when it is back. */
static enum txb_rc read_on(struct txb_tail *tail, long long count, bool follow, struct txb_buffer *line,
                           struct txb_error *err) {
  bool away = false;
  for (long long n = 0; count == 0 || n < count;) {
    struct txb_record record;
    enum txb_rc rc = txb_tail_next(tail, 0, &record, err);
    if (rc == TXB_AGAIN) { /* nothing at hand: show what was read before waiting */
      if (!follow && txb_tail_at_end(tail))
        return TXB_OK;
      if (!txb_print_flush())
        return TXB_OK;
      rc = txb_tail_next(tail, WAIT_MS, &record, err);
    }
    if (rc == TXB_RETRY) {
      if (!away)
        txb_say("%s; waiting for it", err->message);
      away = true;
      continue;
    }
    if (rc == TXB_AGAIN)
      continue;
    TXB_TRY(rc);
    if (away)
      txb_say("Kafka is back");
    away = false;
    print_record(&record, line);
    n++;
  }
  return TXB_OK;
}

int txb_cmd_tail(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_tail_options options;
  struct txb_tail *tail = NULL;
  struct txb_buffer line;
  long long count = 0;
  bool follow = false;
  txb_buffer_init(&line);
  enum txb_rc rc = txb_cli_need_brokers(cli, &err);
  if (rc == TXB_OK)
    rc = take_options(cli, &options, &count, &follow, &err); /* all that is wrong without asking Kafka */
  if (rc == TXB_OK)
    rc = txb_tail_open(&options, &tail, &err);
  if (rc == TXB_OK)
    rc = read_on(tail, count, follow, &line, &err);
  txb_tail_close(tail);
  txb_buffer_fini(&line);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
