/* publish: one intent from flags, or many from JSON lines; in one transaction. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/cli.h"
#include "broker/cli/migrate.h"
#include "broker/cli/publish_lines.h"
#include "common/event.h"
#include "common/fault.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* Reads one byte more than a payload may have: the server then tells the limit. */
static enum txb_rc read_payload(int fd, const char *name, struct txb_buffer *out, struct txb_error *err) {
  while (out->size <= TXB_PAYLOAD_SIZE_MAX) {
    char chunk[65536];
    ssize_t n = read(fd, chunk, sizeof(chunk));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return REFUSE(err, "can't read %s: %s", name, strerror(errno));
    if (n == 0)
      break;
    txb_buffer_add(out, chunk, (size_t)n);
  }
  return txb_buffer_check(out, err);
}

static enum txb_rc take_payload(const struct txb_args *args, struct txb_buffer *bytes, struct txb_intent *out,
                                struct txb_error *err) {
  const char *text = txb_args_text(args, "payload"), *file = txb_args_text(args, "payload-file");
  bool none = txb_args_has(args, "no-payload");
  if ((text != NULL) + (file != NULL) + none > 1)
    return REFUSE(err, "only one of --payload, --payload-file and --no-payload can be given");
  if (none)
    return TXB_OK;
  if (text != NULL) {
    out->payload = txb_bytes(text);
    return TXB_OK;
  }
  bool input = file == NULL || strcmp(file, "-") == 0;
  if (file == NULL && isatty(STDIN_FILENO) == 1)
    return REFUSE(err, "no payload: give --payload TEXT, --payload-file FILE or --no-payload, or pipe it in");
  int fd = input ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return REFUSE(err, "can't open %s: %s", file, strerror(errno));
  enum txb_rc rc = read_payload(fd, input ? "standard input" : file, bytes, err);
  if (!input)
    (void)close(fd);
  /* The newline that `echo` adds is not meant; a file is published as it is. */
  if (rc == TXB_OK && file == NULL && bytes->size > 0 && bytes->data[bytes->size - 1] == '\n')
    bytes->size--;
  out->payload = txb_slice_of(bytes->data == NULL ? "" : bytes->data, bytes->size);
  return rc;
}

static bool is_named_before(const struct txb_args *args, const char *text, size_t size, size_t before) {
  for (size_t i = 0; i < before; i++)
    if (strncmp(txb_args_nth(args, "header", i), text, size + 1) == 0) /* with the '=' */
      return true;
  return false;
}

/* --header NAME=VALUE ... as the JSON object that an intent wants. */
static enum txb_rc take_headers(const struct txb_args *args, struct txb_buffer *json, struct txb_intent *out,
                                struct txb_error *err) {
  const char *text;
  for (size_t n = 0; (text = txb_args_nth(args, "header", n)) != NULL; n++) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text)
      return REFUSE(err, "--header %s: must be NAME=VALUE", text);
    if (!txb_slice_is_text(txb_bytes(text)))
      return REFUSE(err, "--header: not UTF-8");
    if (is_named_before(args, text, (size_t)(equals - text), n)) /* an object keeps one value of a name */
      return REFUSE(err, "--header: %.*s is given more than once", (int)(equals - text), text);
    txb_buffer_add_text(json, n == 0 ? "{" : ",");
    txb_buffer_add_json(json, txb_slice_of(text, (size_t)(equals - text)));
    txb_buffer_add_text(json, ":");
    txb_buffer_add_json(json, txb_bytes(equals + 1));
  }
  if (json->size == 0)
    return TXB_OK;
  txb_buffer_add_text(json, "}");
  out->headers_json = txb_buffer_text(json);
  return txb_buffer_check(json, err);
}

struct flags {
  struct txb_intent intent;
  struct txb_buffer payload, headers;
};

/* Told here by the flag's name: what is not UTF-8 is refused by the server before it knows which argument it was. */
static enum txb_rc check_texts(const struct txb_args *args, struct txb_error *err) {
  static const char *const texts[] = {"topic", "type", "key", "content-type", "id"};
  struct txb_uuid id;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(texts); i++) {
    const char *text = txb_args_text(args, texts[i]);
    if (text != NULL && !txb_slice_is_text(txb_bytes(text)))
      return REFUSE(err, "--%s is not UTF-8", texts[i]);
  }
  const char *text = txb_args_text(args, "id");
  if (text != NULL && txb_uuid_parse(txb_bytes(text), &id, err) != TXB_OK)
    return txb_error_prefix(err, "--id");
  return TXB_OK;
}

static enum txb_rc take_flags(const struct txb_args *args, struct flags *out, struct txb_error *err) {
  struct txb_intent *intent = &out->intent;
  intent->topic = txb_args_text(args, "topic");
  intent->type = txb_args_text(args, "type");
  intent->key = txb_bytes(txb_args_text(args, "key"));
  intent->content_type = txb_args_text(args, "content-type");
  intent->id = txb_args_text(args, "id");
  intent->strict_order = txb_args_has(args, "strict-order");
  TXB_TRY(check_texts(args, err));
  if (intent->topic == NULL)
    return REFUSE(err, "publish wants --topic TOPIC (or --jsonl)");
  if (intent->type == NULL)
    return REFUSE(err, "publish wants --type TYPE, as in --type order.placed");
  const char *not_before = txb_args_text(args, "not-before");
  if (not_before != NULL)
    TXB_TRY(txb_not_before_parse(not_before, &intent->not_before_us, err));
  TXB_TRY(take_headers(args, &out->headers, intent, err));
  return take_payload(args, &out->payload, intent, err);
}

static enum txb_rc publish_one(struct txb_pg *pg, const struct txb_intent *intent, struct txb_buffer *ids,
                               struct txb_error *err) {
  char id[37];
  TXB_TRY(txb_pg_script(pg, "BEGIN", err));
  TXB_TRY(txb_publish(txb_pg_native(pg), intent, id, err));
  txb_failpoint("publish.before_commit");
  TXB_TRY(txb_pg_script(pg, "COMMIT", err));
  txb_failpoint("publish.after_commit");
  txb_buffer_addf(ids, "%s\n", id);
  return txb_buffer_check(ids, err);
}

static void print_ids(const struct txb_cli *cli, struct txb_buffer *ids) {
  if (cli->output == TXB_OUTPUT_TEXT) {
    txb_print_buffer(ids);
    return;
  }
  bool lines = cli->output == TXB_OUTPUT_JSONL;
  if (!lines)
    txb_print("{\"ids\": [");
  for (size_t at = 0; at + 37 <= ids->size; at += 37)
    txb_print(lines ? "{\"id\":\"%.36s\"}\n" : at == 0 ? "\"%.36s\"" : ", \"%.36s\"", ids->data + at);
  if (!lines)
    txb_print("]}\n");
}

/* What was committed stays so, whether or not somebody could read the ids: who publishes again publishes twice. */
static int tell_unprinted(const struct txb_buffer *ids) {
  size_t count = ids->size / 37;
  txb_say("%zu %s committed; only %s could not be printed", count, count == 1 ? "intent is" : "intents are",
          count == 1 ? "its id" : "their ids");
  return TXB_EXIT_FAILED;
}

static enum txb_rc publish(struct txb_cli *cli, struct flags *flags, struct txb_buffer *ids, struct txb_error *err) {
  static const char *const single[] = {"topic",        "key",    "type", "payload",    "payload-file", "no-payload",
                                       "content-type", "header", "id",   "not-before", "strict-order"};
  bool lines = txb_args_has(&cli->args, "jsonl");
  for (size_t i = 0; lines && i < TXB_ARRAY_SIZE(single); i++)
    if (txb_args_has(&cli->args, single[i]))
      return REFUSE(err, "--%s can't be given with --jsonl: each line has its own", single[i]);
  if (!lines)
    TXB_TRY(take_flags(&cli->args, flags, err));
  const char *uri;
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_cli_database(cli, &uri, err));
  TXB_TRY(txb_cli_connect_to_publish(cli, uri, &pg, err));
  size_t count = 0;
  enum txb_rc rc = txb_schema_need(pg, err);
  if (rc == TXB_OK && lines)
    rc = txb_publish_lines(txb_pg_native(pg), STDIN_FILENO, ids, &count, err);
  else if (rc == TXB_OK)
    rc = publish_one(pg, &flags->intent, ids, err);
  txb_pg_close(pg);
  return rc;
}

int txb_cmd_publish(struct txb_cli *cli) {
  struct txb_error err;
  struct flags flags = {0};
  struct txb_buffer ids;
  txb_buffer_init(&ids);
  txb_buffer_init(&flags.payload);
  txb_buffer_init(&flags.headers);
  enum txb_rc rc = publish(cli, &flags, &ids, &err);
  int code = TXB_EXIT_DONE;
  if (rc == TXB_OK) {
    print_ids(cli, &ids);
    if (!txb_print_flush())
      code = tell_unprinted(&ids);
  }
  txb_buffer_fini(&flags.payload);
  txb_buffer_fini(&flags.headers);
  txb_buffer_fini(&ids);
  if (rc == TXB_REFUSED && err.origin == TXB_ORIGIN_NONE)
    err.origin = TXB_ORIGIN_USAGE; /* a limit or a name: what was given is wrong */
  return rc == TXB_OK ? code : txb_fail(&err);
}
