/* failed show: everything about one failed message. Changes nothing. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/failed.h"
#include "broker/cli/safe_text.h"
#include "common/base64.h"

#define HEX_SHOWN_MAX 4096

static void add_bytes(json_t *object, const char *name, const char *name_base64, struct txb_slice bytes) {
  if (bytes.data == NULL) {
    (void)json_object_set_new(object, name, json_null());
  } else if (txb_slice_is_text(bytes)) {
    (void)json_object_set_new(object, name, json_stringn(bytes.data, bytes.size));
  } else {
    struct txb_buffer text;
    txb_buffer_init(&text);
    txb_base64_encode(bytes, &text);
    (void)json_object_set_new(object, name_base64, json_string(txb_buffer_text(&text)));
    txb_buffer_fini(&text);
  }
}

static void print_json(const struct txb_cli *cli, const struct txb_failed_message *m) {
  json_t *document = json_deep_copy(m->message);
  (void)json_object_del(document, "key");
  add_bytes(document, "key", "key_base64", m->key);
  add_bytes(document, "payload_text", "payload_base64", m->payload);
  (void)json_object_set(document, "history", m->history);
  (void)json_object_set(document, "editions", m->editions);
  (void)json_object_set_new(document, "waits_behind", m->head == 0 ? json_null() : json_integer(m->head));
  (void)json_object_set_new(document, "behind",
                            json_pack("{s:I, s:O}", "messages", (json_int_t)m->behind, "first", m->behind_first));
  txb_failed_print_json(cli, document);
  json_decref(document);
}

/* ---- text ------------------------------------------------------------------------------------------------- */

static void line(const char *name, struct txb_slice value) {
  struct txb_buffer safe;
  txb_buffer_init(&safe);
  txb_safe_add(&safe, value, 0, TXB_SAFE_LINE);
  txb_print("  %-14s %s\n", name, txb_buffer_text(&safe));
  txb_buffer_fini(&safe);
}

static void field(const json_t *object, const char *title, const char *name) {
  const json_t *value = json_object_get(object, name);
  if (json_is_string(value))
    line(title, txb_slice_of(json_string_value(value), json_string_length(value)));
  else if (json_is_integer(value))
    txb_print("  %-14s %" JSON_INTEGER_FORMAT "\n", title, json_integer_value(value));
}

static void heading(const struct txb_cli *cli, const char *text) {
  txb_print("\n%s%s%s\n", txb_color(cli, "\033[1m"), text, txb_color(cli, "\033[0m"));
}

static void print_head(const struct txb_cli *cli, const struct txb_failed_message *m) {
  const json_t *o = m->message, *due = json_object_get(o, "due_in_ms");
  const char *resolution = txb_failed_text(o, "resolution");
  const char *since = txb_failed_text(o, "error_class") == NULL ? "set aside" : "failed first";
  char age[24];
  if (resolution != NULL && strcmp(resolution, txb_failed_text(o, "state")) == 0)
    resolution = NULL; /* discarded */
  txb_format_age(json_integer_value(json_object_get(o, "age_ms")), age);
  txb_print("%smessage %" JSON_INTEGER_FORMAT "%s: %s%s%s%s, %s %s ago\n", txb_color(cli, "\033[1m"),
            json_integer_value(json_object_get(o, "number")), txb_color(cli, "\033[0m"), txb_failed_text(o, "state"),
            resolution == NULL ? "" : " (", resolution == NULL ? "" : resolution, resolution == NULL ? "" : ")", since,
            age);
  field(o, "group", "group_name");
  field(o, "source", "source");
  field(o, "topic", "topic");
  bool of_outbox = json_is_integer(json_object_get(o, "job")) && !json_is_integer(json_object_get(o, "from_partition"));
  field(o, "partition", "partition");
  field(o, "job", "job");
  field(o, "partition", "from_partition"); /* of Kafka, that the job reads */
  field(o, of_outbox ? "number" : "offset", "offset");
  field(o, "seq", "seq");
  if (m->key.data != NULL)
    field(o, "key", "key");
  field(o, "id", "id");
  field(o, "type", "type");
  field(o, "time", "time");
  field(o, "content type", "content_type");
  field(o, "handler", "handler");
  field(o, "attempts", "attempts");
  field(o, "last error", "error");
  field(o, "error class", "error_class");
  field(o, "SQLSTATE", "sqlstate");
  field(o, "errors like", "error_group");
  if (json_is_integer(due) && strcmp(txb_failed_text(o, "state"), "retrying") == 0) {
    txb_format_age(json_integer_value(due), age);
    txb_print("  %-14s %s%s\n", "next attempt", json_integer_value(due) > 0 ? "in " : "now",
              json_integer_value(due) > 0 ? age : "");
  }
}

static void print_headers(const struct txb_cli *cli, const json_t *headers) {
  const char *name;
  json_t *value;
  if (!json_is_object(headers) || json_object_size(headers) == 0)
    return;
  heading(cli, "Headers");
  json_object_foreach((json_t *)(uintptr_t)headers, name, value) {
    struct txb_buffer safe;
    char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    txb_buffer_init(&safe);
    txb_safe_add(&safe, txb_slice_text(name), 0, TXB_SAFE_LINE);
    txb_buffer_add_text(&safe, ": ");
    txb_safe_add(
        &safe, text != NULL ? txb_slice_text(text) : txb_slice_of(json_string_value(value), json_string_length(value)),
        0, TXB_SAFE_LINE);
    txb_print("  %s\n", txb_buffer_text(&safe));
    txb_buffer_fini(&safe);
    free(text);
  }
}

static void print_payload(const struct txb_cli *cli, struct txb_slice payload) {
  struct txb_buffer text;
  txb_buffer_init(&text);
  heading(cli, "Payload");
  if (payload.data == NULL) {
    txb_buffer_add_text(&text, "  none\n");
  } else if (txb_slice_is_text(payload)) {
    txb_safe_add(&text, payload, 0, TXB_SAFE_LINES);
    txb_buffer_add_text(&text, "\n");
  } else {
    txb_buffer_addf(&text, "  %zu bytes that are not text:\n", payload.size);
    txb_safe_add_hex(&text, payload, HEX_SHOWN_MAX, 2);
  }
  txb_print_buffer(&text);
  txb_buffer_fini(&text);
}

static void print_history(const struct txb_cli *cli, const json_t *history) {
  static const struct txb_column columns[] = {{"WHEN (UTC)", TXB_LEFT}, {"WHAT", TXB_LEFT}, {"STATE", TXB_LEFT},
                                              {"ATTEMPT", TXB_RIGHT},   {"WHO", TXB_LEFT},  {"CLASS", TXB_LEFT},
                                              {"SQLSTATE", TXB_LEFT},   {"WHY", TXB_LEFT}};
  struct txb_table table;
  const json_t *h;
  size_t i;
  if (json_array_size(history) == 0)
    return;
  heading(cli, "History");
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(history, i, h) {
    txb_table_cellf(&table, "%.19s", txb_failed_text(h, "at"));
    txb_failed_cell(&table, h, "event", 0);
    txb_failed_cell(&table, h, "state", 0);
    txb_failed_cell(&table, h, "attempt", 0);
    txb_failed_cell(&table, h, "who", 40);
    txb_failed_cell(&table, h, "error_class", 0);
    txb_failed_cell(&table, h, "sqlstate", 0);
    txb_failed_cell(&table, h, "error", 200);
  }
  txb_table_print(&table, cli, 2);
  txb_table_fini(&table);
}

static void print_editions(const struct txb_cli *cli, const json_t *editions, json_int_t number) {
  static const struct txb_column columns[] = {
      {"NUMBER", TXB_RIGHT}, {"ID", TXB_LEFT}, {"STATE", TXB_LEFT}, {"MADE", TXB_LEFT}};
  struct txb_table table;
  const json_t *e;
  size_t i;
  if (json_array_size(editions) == 0)
    return;
  heading(cli, "Other editions of it");
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(editions, i, e) {
    txb_failed_cell(&table, e, "number", 0);
    txb_failed_cell(&table, e, "id", 0);
    txb_failed_cell(&table, e, "state", 0);
    txb_table_cell(&table, json_integer_value(json_object_get(e, "number")) < number ? "before" : "after");
  }
  txb_table_print(&table, cli, 2);
  txb_table_fini(&table);
}

static void print_behind(const struct txb_cli *cli, const struct txb_failed_message *m) {
  const json_t *b;
  size_t i;
  if (m->behind > 0) {
    heading(cli, "Behind it");
    txb_print("  %" PRId64 " message%s of its key:", m->behind, m->behind == 1 ? "" : "s");
    json_array_foreach(m->behind_first, i, b) {
      txb_print(" %" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(b, "number")));
    }
    txb_print("%s\n", m->behind > (int64_t)json_array_size(m->behind_first) ? " ..." : "");
  }
  if (m->waits_in_outbox) {
    heading(cli, "Behind it");
    txb_print("  the later intents of its key wait in the outbox\n");
  }
}

static void print_next(const struct txb_cli *cli, const struct txb_failed_message *m) {
  const char *state = txb_failed_text(m->message, "state");
  json_int_t number = json_integer_value(json_object_get(m->message, "number"));
  if (strcmp(state, "resolved") == 0 || strcmp(state, "discarded") == 0)
    return;
  heading(cli, "What to do");
  if (strcmp(state, "held") != 0) {
    txb_failed_print_called(cli, "failed retry", number, "");
  } else if (m->head > 0) {
    txb_print("  it waits behind message %" PRId64 ", and follows when that one is done:\n", m->head);
    txb_failed_print_called(cli, "failed show", m->head, "");
  }
  txb_failed_print_called(cli, "failed edit", number, "");
  txb_failed_print_called(cli, "failed discard", number, " --reason TEXT");
}

static void print_text(const struct txb_cli *cli, const struct txb_failed_message *m) {
  print_head(cli, m);
  print_headers(cli, json_object_get(m->message, "headers"));
  print_payload(cli, m->payload);
  print_history(cli, m->history);
  print_editions(cli, m->editions, json_integer_value(json_object_get(m->message, "number")));
  print_behind(cli, m);
  print_next(cli, m);
}

static enum txb_rc show(struct txb_cli *cli, const struct txb_targets *targets, int64_t number, struct txb_error *err) {
  const char *uri;
  struct txb_pg *pg = NULL;
  struct txb_failed_message m;
  TXB_TRY(txb_failed_one_target(cli, targets, &uri, err));
  TXB_TRY(txb_failed_connect(cli, uri, &pg, err));
  enum txb_rc rc = txb_failed_show(pg, number, &m, err);
  if (rc == TXB_OK) {
    if (cli->output == TXB_OUTPUT_TEXT)
      print_text(cli, &m);
    else
      print_json(cli, &m);
    txb_failed_message_fini(&m);
  }
  txb_pg_close(pg);
  return rc;
}

int txb_cmd_failed_show(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_targets targets = {NULL, 0};
  int64_t number = 0;
  enum txb_rc rc = txb_number_parse(cli->args.operands[0], "failed message", "failed list", &number, &err);
  if (rc == TXB_OK)
    rc = txb_failed_targets(cli, &targets, &err);
  if (rc == TXB_OK)
    rc = show(cli, &targets, number, &err);
  txb_targets_fini(&targets);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
