/* Intents as JSON lines. */
#include "broker/cli/publish_lines.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/base64.h"
#include "common/clock.h"
#include "common/event.h"
#include "common/fault.h"
#include "common/json_place.h"
#include "common/nearest.h"
#include "common/pg.h"

#define LINE_BYTES_MAX (16 * 1024 * 1024)
#define READ_BYTES     65536
#define BATCH_LINES    1000
#define BATCH_BYTES    (4 * 1024 * 1024)

#define REFUSE(err, ...) TXB_FAIL((err), TXB_REFUSED, __VA_ARGS__)

/* What a line may hold. What tail prints beyond an intent is passed over. */
static const char *const keys[] = {"topic",        "key",     "type", "payload",    "payload_text", "payload_base64",
                                   "content_type", "headers", "id",   "not_before", "strict_order", "partition",
                                   "offset",       "source",  "time", "timestamp",  "foreign"};

static enum txb_rc check_keys(json_t *root, struct txb_error *err) {
  const char *name;
  json_t *value;
  json_object_foreach(root, name, value) {
    bool known = false;
    for (size_t i = 0; i < TXB_ARRAY_SIZE(keys) && !known; i++)
      known = strcmp(keys[i], name) == 0;
    if (known)
      continue;
    const char *nearest = txb_nearest(name, keys, TXB_ARRAY_SIZE(keys));
    if (strcmp(name, "key_base64") == 0)
      return REFUSE(err, "the key is not text: an intent's key must be");
    return nearest == NULL ? REFUSE(err, "unknown member \"%s\"", name)
                           : REFUSE(err, "unknown member \"%s\"; did you mean \"%s\"?", name, nearest);
  }
  return TXB_OK;
}

/* A member that is text, or is missing. */
static enum txb_rc text_member(const json_t *root, const char *name, const char **out, struct txb_error *err) {
  const json_t *value = json_object_get(root, name);
  if (value == NULL || json_is_null(value))
    return TXB_OK;
  if (!json_is_string(value))
    return REFUSE(err, "%s is not a string", name);
  if (strlen(json_string_value(value)) != json_string_length(value))
    return REFUSE(err, "%s holds a NUL character", name);
  *out = json_string_value(value);
  return TXB_OK;
}

static enum txb_rc copy_to_arena(struct txb_arena *arena, const void *data, size_t size, struct txb_slice *out,
                                 struct txb_error *err) {
  void *copy;
  TXB_TRY(txb_arena_alloc(arena, size + 1, &copy, err));
  if (size > 0)
    memcpy(copy, data, size);
  ((char *)copy)[size] = '\0';
  *out = txb_slice_of(copy, size);
  return TXB_OK;
}

static enum txb_rc decode(const json_t *value, struct txb_arena *arena, struct txb_slice *out, struct txb_error *err) {
  struct txb_buffer bytes;
  txb_buffer_init(&bytes);
  enum txb_rc rc = TXB_OK;
  if (!json_is_string(value) ||
      !txb_base64_decode(txb_slice_of(json_string_value(value), json_string_length(value)), &bytes))
    rc = REFUSE(err, "payload_base64 is not base64");
  if (rc == TXB_OK)
    rc = txb_buffer_check(&bytes, err);
  if (rc == TXB_OK)
    rc = copy_to_arena(arena, bytes.data, bytes.size, out, err);
  txb_buffer_fini(&bytes);
  return rc;
}

/* payload is any JSON, published byte for byte as it stands in the line; without any of the three the message has no
 * value. */
static enum txb_rc payload_member(const json_t *root, struct txb_slice text, struct txb_arena *arena,
                                  struct txb_intent *out, struct txb_error *err) {
  const json_t *json = json_object_get(root, "payload"), *plain = json_object_get(root, "payload_text");
  const json_t *base64 = json_object_get(root, "payload_base64");
  if ((json != NULL) + (plain != NULL) + (base64 != NULL) > 1)
    return REFUSE(err, "only one of payload, payload_text and payload_base64 can be given");
  if (json != NULL) {
    const struct txb_json_step path[] = {{.key = "payload"}};
    out->payload = txb_json_span(text, path, 1);
    if (out->payload.data == NULL)
      return REFUSE(err, "the name of member payload must not be written with escapes");
  } else if (plain != NULL) {
    if (!json_is_string(plain))
      return REFUSE(err, "payload_text is not a string");
    out->payload = txb_slice_of(json_string_value(plain), json_string_length(plain));
    out->content_type = "text/plain; charset=utf-8";
  } else if (base64 != NULL) {
    out->content_type = "application/octet-stream";
    return decode(base64, arena, &out->payload, err);
  }
  return TXB_OK;
}

static enum txb_rc headers_member(const json_t *root, struct txb_arena *arena, struct txb_intent *out,
                                  struct txb_error *err) {
  const json_t *headers = json_object_get(root, "headers");
  if (headers == NULL || json_is_null(headers))
    return TXB_OK;
  if (!json_is_object(headers))
    return REFUSE(err, "headers is not an object");
  char *text = json_dumps(headers, JSON_COMPACT);
  if (text == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory");
  struct txb_slice copy;
  enum txb_rc rc = copy_to_arena(arena, text, strlen(text), &copy, err);
  free(text);
  if (rc == TXB_OK)
    out->headers_json = copy.data;
  return rc;
}

enum txb_rc txb_not_before_parse(const char *text, int64_t *out, struct txb_error *err) {
  if (*text == '+') {
    char *end = NULL;
    errno = 0;
    long long seconds = strtoll(text + 1, &end, 10);
    if (text[1] != '\0' && *end == '\0' && errno == 0 && seconds >= 0 && seconds <= 100LL * 366 * 86400) {
      *out = txb_clock_wall_us() + seconds * 1000000;
      return TXB_OK;
    }
  } else if (txb_event_time_parse(txb_slice_text(text), out)) {
    return TXB_OK;
  }
  return REFUSE(err, "not_before \"%s\" is neither a time as 2026-01-31T12:00:00Z nor +SECONDS", text);
}

static enum txb_rc members(struct txb_slice text, struct txb_arena *arena, json_t *root, struct txb_intent *out,
                           struct txb_error *err) {
  const char *key = NULL, *content_type = NULL, *not_before = NULL;
  TXB_TRY(check_keys(root, err));
  TXB_TRY(text_member(root, "topic", &out->topic, err));
  TXB_TRY(text_member(root, "type", &out->type, err));
  TXB_TRY(text_member(root, "id", &out->id, err));
  TXB_TRY(text_member(root, "key", &key, err));
  TXB_TRY(text_member(root, "content_type", &content_type, err));
  TXB_TRY(text_member(root, "not_before", &not_before, err));
  if (out->topic == NULL)
    return REFUSE(err, "topic is missing");
  if (out->type == NULL)
    return REFUSE(err, "type is missing");
  out->key = txb_slice_text(key);
  TXB_TRY(payload_member(root, text, arena, out, err));
  TXB_TRY(headers_member(root, arena, out, err));
  if (content_type != NULL)
    out->content_type = content_type;
  if (not_before != NULL)
    TXB_TRY(txb_not_before_parse(not_before, &out->not_before_us, err));
  const json_t *strict = json_object_get(root, "strict_order");
  if (strict != NULL && !json_is_boolean(strict))
    return REFUSE(err, "strict_order is neither true nor false");
  out->strict_order = json_is_true(strict);
  return TXB_OK;
}

enum txb_rc txb_line_parse(struct txb_slice text, struct txb_arena *arena, struct txb_line *out,
                           struct txb_error *err) {
  json_error_t problem;
  json_t *root =
      json_loadb(text.data, text.size, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, &problem);
  if (root == NULL)
    return REFUSE(err, "not valid JSON: %s (column %d)", problem.text, problem.column);
  struct txb_intent intent = {0};
  enum txb_rc rc = json_is_object(root) ? members(text, arena, root, &intent, err) : REFUSE(err, "not a JSON object");
  if (rc != TXB_OK) {
    json_decref(root);
    return rc;
  }
  *out = (struct txb_line){root, intent};
  return TXB_OK;
}

void txb_line_fini(struct txb_line *line) {
  json_decref(line->root);
  *line = (struct txb_line){0};
}

/* ---- a stream -------------------------------------------------------------------------------------------- */

struct stream {
  int fd;
  struct txb_buffer input; /* read and not yet taken */
  size_t taken;
  bool ended;
  long number; /* of the line taken last */
};

/* The next line without its newline, borrowed until the next call; absent at the end. */
static enum txb_rc next_line(struct stream *s, struct txb_slice *out, struct txb_error *err) {
  size_t seen = s->taken;
  for (;;) {
    const char *from = s->input.data + s->taken;
    size_t left = s->input.size - s->taken, known = s->input.size - seen;
    const char *newline = known == 0 ? NULL : memchr(s->input.data + seen, '\n', known);
    if (newline != NULL || (s->ended && left > 0)) {
      size_t size = newline == NULL ? left : (size_t)(newline - from);
      s->taken += size + (newline != NULL);
      s->number++;
      *out = txb_slice_of(from, size);
      return TXB_OK;
    }
    if (s->ended) {
      *out = (struct txb_slice){NULL, 0};
      return TXB_OK;
    }
    if (left > LINE_BYTES_MAX)
      return REFUSE(err, "line %ld is longer than %d bytes", s->number + 1, LINE_BYTES_MAX);
    if (s->taken > 0) {
      memmove(s->input.data, from, left);
      s->input.size = left;
      s->taken = 0;
    }
    seen = s->input.size;
    char *room = txb_buffer_reserve(&s->input, READ_BYTES);
    TXB_TRY(txb_buffer_check(&s->input, err));
    ssize_t n = read(s->fd, room, READ_BYTES);
    if (n < 0 && errno != EINTR)
      return REFUSE(err, "can't read standard input: %s", strerror(errno));
    s->input.size = seen + (n > 0 ? (size_t)n : 0);
    s->ended = n == 0;
  }
}

struct batch {
  struct txb_arena arena;
  struct txb_line lines[BATCH_LINES];
  struct txb_intent intents[BATCH_LINES];
  long numbers[BATCH_LINES];
  char ids[BATCH_LINES][37];
  size_t count, bytes;
};

static void batch_clear(struct batch *b) {
  for (size_t i = 0; i < b->count; i++)
    txb_line_fini(&b->lines[i]);
  b->count = b->bytes = 0;
  txb_arena_reset(&b->arena);
}

static bool is_blank(struct txb_slice line) {
  const char *text = line.data;
  for (size_t i = 0; i < line.size; i++)
    if (strchr(" \t\r", text[i]) == NULL || text[i] == '\0')
      return false;
  return true;
}

static enum txb_rc batch_add(struct batch *b, const struct stream *s, struct txb_slice line, struct txb_error *err) {
  struct txb_slice copy;
  TXB_TRY(copy_to_arena(&b->arena, line.data, line.size, &copy, err));
  if (txb_line_parse(copy, &b->arena, &b->lines[b->count], err) != TXB_OK)
    return txb_error_prefix(err, "line %ld", s->number);
  b->intents[b->count] = b->lines[b->count].intent;
  b->numbers[b->count] = s->number;
  b->bytes += line.size;
  b->count++;
  return TXB_OK;
}

/* The batch was refused as a whole: one at a time tells which line it was. */
static enum txb_rc blame(struct txb_pg *pg, void *pgconn, const struct batch *b, struct txb_error *err) {
  struct txb_error first = *err, found;
  if (txb_pg_script(pg, "ROLLBACK TO SAVEPOINT txb_lines", &found) != TXB_OK)
    return first.rc;
  for (size_t i = 0; i < b->count; i++) {
    if (txb_publish(pgconn, &b->intents[i], NULL, &found) == TXB_OK)
      continue;
    *err = found;
    return txb_error_prefix(err, "line %ld", b->numbers[i]);
  }
  return txb_error_prefix(err, "lines %ld to %ld", b->numbers[0], b->numbers[b->count - 1]);
}

static enum txb_rc batch_publish(struct txb_pg *pg, void *pgconn, struct batch *b, struct txb_buffer *ids,
                                 struct txb_error *err) {
  TXB_TRY(txb_pg_script(pg, "SAVEPOINT txb_lines", err));
  enum txb_rc rc = txb_publish_many(pgconn, b->intents, b->count, b->ids, err);
  if (rc == TXB_REFUSED)
    return blame(pg, pgconn, b, err);
  TXB_TRY(rc);
  for (size_t i = 0; i < b->count; i++) {
    txb_buffer_add(ids, b->ids[i], 36);
    txb_buffer_add(ids, "\n", 1);
  }
  TXB_TRY(txb_buffer_check(ids, err));
  return txb_pg_script(pg, "RELEASE SAVEPOINT txb_lines", err);
}

static enum txb_rc publish_all(struct txb_pg *pg, void *pgconn, struct stream *s, struct batch *b,
                               struct txb_buffer *ids, size_t *count, struct txb_error *err) {
  struct txb_slice line;
  do {
    TXB_TRY(next_line(s, &line, err));
    if (line.data != NULL && !is_blank(line))
      TXB_TRY(batch_add(b, s, line, err));
    if (b->count == BATCH_LINES || b->bytes >= BATCH_BYTES || (line.data == NULL && b->count > 0)) {
      TXB_TRY(batch_publish(pg, pgconn, b, ids, err));
      *count += b->count;
      batch_clear(b);
    }
  } while (line.data != NULL);
  txb_failpoint("publish.before_commit");
  TXB_TRY(txb_pg_script(pg, "COMMIT", err));
  txb_failpoint("publish.after_commit");
  return TXB_OK;
}

static enum txb_rc publish_stream(struct txb_pg *pg, void *pgconn, int fd, struct txb_buffer *ids, size_t *count_out,
                                  struct txb_error *err) {
  void *memory;
  TXB_TRY(txb_alloc(sizeof(struct batch), &memory, err));
  struct batch *b = memory;
  struct stream s = {.fd = fd};
  txb_buffer_init(&s.input);
  txb_arena_init(&b->arena, 1024 * 1024);
  size_t count = 0;
  enum txb_rc rc = TXB_OK;
  if (txb_buffer_reserve(&s.input, READ_BYTES) == NULL)
    rc = txb_buffer_check(&s.input, err);
  s.input.size = 0;
  if (rc == TXB_OK)
    rc = txb_pg_script(pg, "BEGIN", err);
  if (rc == TXB_OK)
    rc = publish_all(pg, pgconn, &s, b, ids, &count, err);
  if (rc == TXB_OK)
    *count_out = count;
  batch_clear(b);
  txb_arena_fini(&b->arena);
  txb_buffer_fini(&s.input);
  txb_free(b);
  return rc;
}

enum txb_rc txb_publish_lines(void *pgconn, int fd, struct txb_buffer *ids, size_t *count_out, struct txb_error *err) {
  struct txb_pg *pg;
  TXB_TRY(txb_pg_borrow(pgconn, &pg, err));
  enum txb_rc rc = publish_stream(pg, pgconn, fd, ids, count_out, err);
  txb_pg_close(pg);
  return rc;
}
