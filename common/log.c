/* The log. A line is built on the stack and written by one write(2): nothing is allocated, lines of several threads
 * never mix (a pipe takes up to 4096 bytes as one, PIPE_BUF), and what a foreign producer puts into a topic, a key or an
 * error text can neither end a line nor forge a field. */
#include "common/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "common/clock.h"

#define LINE_SIZE 4096
#define TAIL_SIZE 16 /* kept free, for the quote, the brace and the newline that end a full line */

static struct {
  enum txb_log_level level;
  enum txb_log_format format;
  void (*sink)(const char *line, size_t size);
} setup = {.level = TXB_LOG_INFO, .format = TXB_LOG_LOGFMT};

/* Per thread: each worker of an application runs in a thread of its own, and may have its own log. */
static _Thread_local const struct txb_log_outlet *diverted;

static const char *const level_names[] = {
    [TXB_LOG_DEBUG] = "debug",
    [TXB_LOG_INFO] = "info",
    [TXB_LOG_WARN] = "warn",
    [TXB_LOG_ERROR] = "error",
};

struct line {
  char data[LINE_SIZE];
  size_t size;
};

void txb_log_setup(enum txb_log_level level, enum txb_log_format format, void (*sink)(const char *line, size_t size)) {
  setup.level = level;
  setup.format = format;
  setup.sink = sink;
}

const struct txb_log_outlet *txb_log_divert(const struct txb_log_outlet *outlet) {
  const struct txb_log_outlet *old = diverted;
  diverted = outlet;
  return old;
}

bool txb_log_enabled(enum txb_log_level level) {
  return level >= (diverted != NULL ? diverted->level : setup.level);
}

/* All or nothing: a cut in the middle of an escape would change its meaning. */
static bool put(struct line *l, const char *data, size_t size) {
  if (l->size + size > LINE_SIZE - TAIL_SIZE)
    return false;
  memcpy(l->data + l->size, data, size);
  l->size += size;
  return true;
}

/* The end of a value or line: goes into the room that is kept free. */
static void put_end(struct line *l, const char *text) {
  size_t size = strlen(text);
  TXB_ASSERT(size <= LINE_SIZE - l->size);
  memcpy(l->data + l->size, text, size);
  l->size += size;
}

static bool put_escaped_byte(struct line *l, unsigned char c, bool json) {
  char text[8];
  if (c == '"' || c == '\\')
    snprintf(text, sizeof text, "\\%c", c);
  else if (c == '\n' || c == '\t' || c == '\r')
    snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
  else if (json && c >= 0x80)
    snprintf(text, sizeof text, "\\ufffd"); /* JSON has no way to write a byte */
  else
    snprintf(text, sizeof text, json ? "\\u%04x" : "\\x%02x", c);
  return put(l, text, strlen(text));
}

/* U+0080 to U+009F: terminals read them as control sequences. */
static bool is_c1(const unsigned char *p, size_t size) {
  return size == 2 && p[0] == 0xC2 && p[1] < 0xA0;
}

static void put_quoted(struct line *l, struct txb_slice value, bool json) {
  const unsigned char *p = value.data;
  if (!put(l, "\"", 1))
    return;
  for (size_t i = 0, size; i < value.size; i += size) {
    size = txb_utf8_character(txb_slice_of(p + i, value.size - i));
    bool control = p[i] < 0x20 || p[i] == 0x7F || is_c1(p + i, size), ok = true;
    if (size == 0 || control || p[i] == '"' || p[i] == '\\') {
      size = size == 0 ? 1 : size;
      for (size_t k = 0; k < size; k++)
        ok = ok && put_escaped_byte(l, p[i + k], json);
    } else {
      ok = put(l, (const char *)p + i, size);
    }
    if (!ok) { /* full: say so */
      put_end(l, "...");
      break;
    }
  }
  put_end(l, "\"");
}

static bool is_bare(struct txb_slice value) {
  const unsigned char *p = value.data;
  for (size_t i = 0; i < value.size; i++)
    if (p[i] <= 0x20 || p[i] >= 0x7F || p[i] == '"' || p[i] == '\\' || p[i] == '=')
      return false;
  return value.size > 0;
}

static void put_value(struct line *l, struct txb_slice value, bool json) {
  if (json || !is_bare(value) || !put(l, value.data, value.size))
    put_quoted(l, value, json);
}

/* Names are our own constants: they need no escape. */
static bool put_name(struct line *l, const char *name, bool json) {
  char text[80];
  int size = json ? snprintf(text, sizeof text, "%s\"%s\":", l->size > 1 ? "," : "", name)
                  : snprintf(text, sizeof text, "%s%s=", l->size > 0 ? " " : "", name);
  TXB_ASSERT(size > 0 && (size_t)size < sizeof text);
  return l->size + (size_t)size + sizeof("-9223372036854775808") <= LINE_SIZE - TAIL_SIZE && put(l, text, (size_t)size);
}

static void put_field(struct line *l, const struct txb_field *f, bool json) {
  struct txb_slice value = f->kind == TXB_FIELD_TEXT ? txb_slice_text(f->text) : f->bytes;
  char number[24];
  if (f->name == NULL || (f->kind != TXB_FIELD_INT && value.data == NULL) || !put_name(l, f->name, json))
    return;
  if (f->kind != TXB_FIELD_INT) {
    put_value(l, value, json);
    return;
  }
  int size = snprintf(number, sizeof number, "%" PRId64, f->number);
  put(l, number, (size_t)size); /* put_name has made sure of the room */
}

static void write_line(const char *line, size_t size) {
  while (size > 0) {
    ssize_t n = write(STDERR_FILENO, line, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return; /* nobody reads stderr: work goes on */
    line += n;
    size -= (size_t)n;
  }
}

static void write_diverted(enum txb_log_level level, const struct txb_field *fields, size_t count) {
  struct line l = {.size = 0};
  for (size_t i = 0; i < count; i++)
    put_field(&l, &fields[i], false);
  l.data[l.size] = '\0'; /* into the room that is kept free */
  diverted->write(level, l.data, diverted->context);
}

void txb_log_write(enum txb_log_level level, const struct txb_field *fields, size_t count) {
  if (!txb_log_enabled(level))
    return;
  if (diverted != NULL && diverted->write != NULL) {
    write_diverted(level, fields, count);
    return;
  }
  bool json = setup.format == TXB_LOG_JSON;
  struct line l;
  char now[28];
  l.size = 0;
  txb_clock_format(txb_clock_wall_us(), now);
  if (json)
    put(&l, "{", 1);
  put_field(&l, &TXB_F("time", now), json);
  put_field(&l, &TXB_F("level", level_names[level]), json);
  for (size_t i = 0; i < count; i++)
    put_field(&l, &fields[i], json);
  put_end(&l, json ? "}\n" : "\n");
  (setup.sink != NULL ? setup.sink : write_line)(l.data, l.size);
}
