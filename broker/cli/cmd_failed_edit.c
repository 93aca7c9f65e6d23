/* failed edit: another payload, other headers in a failed message's place. One message is one transaction, and so are up to
 * 500; more are a job: failed_job.c. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/failed.h"
#include "common/base64.h"
#include "common/event.h"
#include "common/memory.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* What the command line asks for, the same for every message. */
struct wish {
  const struct txb_args *args;
  bool has_payload; /* from --payload-file; else the message's own, or an editor's */
  bool editor;
  struct txb_buffer payload;
};

static enum txb_rc read_file(const char *name, struct txb_buffer *out, struct txb_error *err) {
  bool input = strcmp(name, "-") == 0;
  int fd = input ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return REFUSE(err, "can't open %s: %s", name, strerror(errno));
  enum txb_rc rc = TXB_OK;
  while (rc == TXB_OK && out->size <= TXB_PAYLOAD_SIZE_MAX) { /* one byte more: the server then tells the limit */
    char chunk[65536];
    ssize_t n = read(fd, chunk, sizeof(chunk));
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      rc = REFUSE(err, "can't read %s: %s", input ? "standard input" : name, strerror(errno));
    if (n <= 0)
      break;
    txb_buffer_add(out, chunk, (size_t)n);
  }
  if (!input)
    (void)close(fd);
  return rc == TXB_OK ? txb_buffer_check(out, err) : rc;
}

static bool is_set(const struct txb_args *args, const char *name) {
  const char *text;
  size_t size = strlen(name);
  for (size_t n = 0; (text = txb_args_nth(args, "set-header", n)) != NULL; n++)
    if (strncmp(text, name, size) == 0 && text[size] == '=')
      return true;
  return false;
}

/* A message may have got headers of any name from elsewhere; but a slip must not look like a header that was not there. */
static enum txb_rc check_unset(const struct txb_args *args, struct txb_error *err) {
  const char *text;
  for (size_t n = 0; (text = txb_args_nth(args, "unset-header", n)) != NULL; n++) {
    if (*text == '\0')
      return REFUSE(err, "--unset-header is empty: must be the NAME of a header");
    if (!txb_slice_is_text(txb_slice_text(text)))
      return REFUSE(err, "--unset-header: not UTF-8");
    for (const char *p = text; *p != '\0'; p++)
      if ((unsigned char)*p < 0x20 || *p == 0x7F)
        return REFUSE(err, "--unset-header: has control characters");
    if (is_set(args, text))
      return REFUSE(err, "--set-header and --unset-header both name %s: give one of them", text);
  }
  return TXB_OK;
}

static enum txb_rc check_headers(const struct txb_args *args, struct txb_error *err) {
  const char *text;
  for (size_t n = 0; (text = txb_args_nth(args, "set-header", n)) != NULL; n++) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text)
      return REFUSE(err, "--set-header %s: must be NAME=VALUE", text);
    if (!txb_slice_is_text(txb_slice_text(text)))
      return REFUSE(err, "--set-header: not UTF-8");
  }
  TXB_TRY(check_unset(args, err));
  text = txb_args_text(args, "content-type");
  if (text != NULL && !txb_slice_is_text(txb_slice_text(text)))
    return REFUSE(err, "--content-type is not UTF-8");
  return TXB_OK;
}

static enum txb_rc take_wish(struct wish *wish, const struct txb_args *args, struct txb_error *err) {
  const char *file = txb_args_text(args, "payload-file");
  wish->args = args;
  wish->has_payload = file != NULL;
  wish->editor = file == NULL && !txb_args_has(args, "set-header") && !txb_args_has(args, "unset-header") &&
                 !txb_args_has(args, "content-type");
  TXB_TRY(check_headers(args, err));
  if (wish->editor && txb_args_has(args, "detach"))
    return REFUSE(err, "a job takes no editor: with --detach give --payload-file, --set-header, --unset-header or "
                       "--content-type");
  return file == NULL ? TXB_OK : read_file(file, &wish->payload, err);
}

static void set_headers(const struct wish *wish, json_t *headers) {
  const char *text;
  for (size_t n = 0; (text = txb_args_nth(wish->args, "set-header", n)) != NULL; n++) {
    const char *equals = strchr(text, '=');
    json_t *name = json_stringn(text, (size_t)(equals - text));
    (void)json_object_set_new(headers, json_string_value(name), json_string(equals + 1));
    json_decref(name);
  }
}

/* The message's headers with what --unset-header and --set-header say. */
static json_t *headers_of(const struct wish *wish, const json_t *old) {
  json_t *headers = json_is_object(old) ? json_copy((json_t *)(uintptr_t)old) : json_object();
  const char *text;
  for (size_t n = 0; (text = txb_args_nth(wish->args, "unset-header", n)) != NULL; n++)
    (void)json_object_del(headers, text);
  set_headers(wish, headers);
  return headers;
}

/* The same for messages that only the server looks at: as txb.failed_edit_many takes it. */
static json_t *changes_of(const struct wish *wish) {
  json_t *changes = json_object(), *headers = json_object(), *unset = json_array();
  const char *text, *type = txb_args_text(wish->args, "content-type");
  for (size_t n = 0; (text = txb_args_nth(wish->args, "unset-header", n)) != NULL; n++)
    (void)json_array_append_new(unset, json_string(text));
  set_headers(wish, headers);
  if (json_object_size(headers) > 0)
    (void)json_object_set(changes, "headers", headers);
  if (json_array_size(unset) > 0)
    (void)json_object_set(changes, "unset", unset);
  if (type != NULL)
    (void)json_object_set_new(changes, "content_type", json_string(type));
  if (wish->has_payload) {
    struct txb_buffer base64;
    txb_buffer_init(&base64);
    txb_base64_encode(txb_slice_of(wish->payload.data == NULL ? "" : wish->payload.data, wish->payload.size), &base64);
    (void)json_object_set_new(changes, "payload", json_string(txb_buffer_text(&base64)));
    txb_buffer_fini(&base64);
  }
  json_decref(headers);
  json_decref(unset);
  return changes;
}

static bool is_json_type(const char *type) {
  return type != NULL && strstr(type, "json") != NULL;
}

/* What the editor made of a payload. *path_out: where it lies, until the server has taken it. */
static enum txb_rc edit_by_hand(const struct txb_failed_message *m, const char *content_type, struct txb_buffer *after,
                                char **path_out, struct txb_error *err) {
  const char *state = txb_failed_text(m->message, "state");
  if (strcmp(state, "resolved") == 0 || strcmp(state, "discarded") == 0)
    return TXB_OK; /* the server tells when and by whom */
  if (m->payload.data != NULL && !txb_slice_is_text(m->payload))
    return REFUSE(err, "the payload is not text: give --payload-file FILE");
  return txb_editor_run(m->payload, is_json_type(content_type), after, path_out, err);
}

/* The text is kept where the server did not take it: nobody types it twice. */
static enum txb_rc settle_file(char *path, enum txb_rc rc, json_int_t number) {
  if (path == NULL)
    return rc;
  if (rc == TXB_OK)
    (void)unlink(path);
  else
    txb_say("your text of message %" JSON_INTEGER_FORMAT " is kept in %s: mend it, then --payload-file %s", number,
            path, path);
  txb_free(path);
  return rc;
}

static enum txb_rc edit_one(const struct txb_failed_choice *choice, const struct wish *wish, int64_t number,
                            json_t *results, struct txb_error *err) {
  struct txb_failed_message m;
  struct txb_buffer after;
  char *path = NULL;
  TXB_TRY(txb_failed_show(choice->pg, number, &m, err));
  txb_buffer_init(&after);
  const char *type = txb_args_text(wish->args, "content-type");
  json_t *headers = headers_of(wish, json_object_get(m.message, "headers"));
  struct txb_failed_edition edition = {.payload = m.payload,
                                       .content_type = type != NULL ? type : txb_failed_text(m.message, "content_type"),
                                       .headers = headers,
                                       .person = txb_person(),
                                       .reason = txb_args_text(wish->args, "reason"),
                                       .filter = choice->filter};
  enum txb_rc rc = TXB_OK;
  if (wish->has_payload)
    edition.payload = txb_slice_of(wish->payload.data == NULL ? "" : wish->payload.data, wish->payload.size);
  else if (wish->editor)
    rc = edit_by_hand(&m, edition.content_type, &after, &path, err);
  if (path != NULL && (after.size > 0 || m.payload.data != NULL)) /* no value, nothing typed: still no value */
    edition.payload = txb_slice_of(after.data == NULL ? "" : after.data, after.size);
  if (rc == TXB_OK)
    rc = settle_file(path, txb_failed_edit(choice->pg, number, &edition, results, err), number);
  json_decref(headers);
  txb_buffer_fini(&after);
  txb_failed_message_fini(&m);
  return rc;
}

static enum txb_rc edit_many(const struct txb_cli *cli, const struct txb_failed_choice *choice, const struct wish *wish,
                             int *code_out, struct txb_error *err) {
  struct txb_failed_decision d = {.verb = TXB_FAILED_EDIT,
                                  .person = txb_person(),
                                  .reason = txb_args_text(wish->args, "reason"),
                                  .filter = choice->filter,
                                  .changes = choice->changes};
  return txb_failed_carry_out(cli, choice, &d, code_out, err);
}

static enum txb_rc edit(const struct txb_cli *cli, const struct txb_failed_choice *choice, const struct wish *wish,
                        int *code_out, struct txb_error *err) {
  if (wish->editor && choice->count > 1)
    return REFUSE(
        err,
        "an editor takes one message, and %zu are meant: give --payload-file, --set-header, --unset-header or "
        "--content-type for all of them",
        choice->count);
  if (choice->is_job || choice->count > 1)
    return edit_many(cli, choice, wish, code_out, err);
  json_t *results = json_array();
  enum txb_rc rc = edit_one(choice, wish, choice->numbers[0], results, err);
  if (rc == TXB_OK)
    *code_out = txb_failed_report(cli, txb_failed_words_of(TXB_FAILED_EDIT), results);
  json_decref(results);
  return rc;
}

int txb_cmd_failed_edit(struct txb_cli *cli) {
  struct txb_error err;
  struct wish wish = {0};
  bool go = false;
  json_t *states = json_string("open");
  txb_buffer_init(&wish.payload);
  enum txb_rc rc = take_wish(&wish, &cli->args, &err);
  json_t *changes = rc == TXB_OK && !wish.editor ? changes_of(&wish) : NULL;
  struct txb_failed_choice choice = {.may_be_job = !wish.editor, .changes = changes, .code = TXB_EXIT_DONE};
  if (rc == TXB_OK)
    rc = txb_failed_choose(cli, TXB_FAILED_EDIT, states, &choice, &go, &err);
  int code = choice.code;
  if (rc == TXB_OK && go)
    rc = edit(cli, &choice, &wish, &code, &err);
  json_decref(states);
  json_decref(changes);
  txb_buffer_fini(&wish.payload);
  txb_failed_choice_fini(&choice);
  return rc == TXB_OK ? code : txb_fail(&err);
}
