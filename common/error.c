/* Errors as values. Nothing here allocates, so that running out of memory can be reported. */
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/slice.h"

static const char *const rc_names[] = {
    [TXB_OK] = "ok",           [TXB_AGAIN] = "again",   [TXB_RETRY] = "retry",   [TXB_DUPLICATE] = "duplicate",
    [TXB_REFUSED] = "refused", [TXB_POISON] = "poison", [TXB_FENCED] = "fenced", [TXB_FATAL] = "fatal",
};

const char *txb_rc_name(enum txb_rc rc) {
  return (size_t)rc < TXB_ARRAY_SIZE(rc_names) ? rc_names[rc] : "unknown";
}

/* Cuts a text of `size` bytes that vsnprintf may have cut inside a character. */
static void cut_at_character(char *text, size_t size) {
  size_t start = size;
  while (start > 0 && size - start < 4 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
    start--;
  if (start == 0)
    return;
  unsigned char lead = (unsigned char)text[start - 1];
  size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  if (want > size - (start - 1))
    text[start - 1] = '\0';
}

static void format_line(char *out, size_t out_size, const char *fmt, va_list args) TXB_PRINTF(3, 0);
static void format_line(char *out, size_t out_size, const char *fmt, va_list args) {
  int n = vsnprintf(out, out_size, fmt, args);
  if (n < 0)
    out[0] = '\0';
  else if ((size_t)n >= out_size)
    cut_at_character(out, out_size - 1);
  for (char *p = out; *p != '\0'; p++) /* one line, whatever a server or a library put into its text */
    if ((unsigned char)*p < 0x20 || *p == 0x7F)
      *p = ' ';
  /* And valid UTF-8: a server refuses to store what isn't, and the failure that it tells of would be recorded nowhere. */
  for (size_t i = 0, size = strlen(out); i < size;) {
    size_t step = txb_utf8_character(txb_slice_of(out + i, size - i));
    if (step == 0)
      out[i] = '?';
    i += step == 0 ? 1 : step;
  }
}

enum txb_rc txb_error_set(struct txb_error *err, enum txb_rc rc, enum txb_origin origin, const char *file, int line,
                          const char *fmt, ...) {
  TXB_ASSERT(rc != TXB_OK);
  if (err == NULL)
    return rc;
  char text[sizeof err->message]; /* the arguments may lie in *err itself */
  va_list args;
  va_start(args, fmt);
  format_line(text, sizeof text, fmt, args);
  va_end(args);
  memset(err, 0, sizeof *err);
  err->rc = rc;
  err->origin = origin;
  err->file = file;
  err->line = line;
  memcpy(err->message, text, strlen(text) + 1);
  return rc;
}

enum txb_rc txb_error_prefix(struct txb_error *err, const char *fmt, ...) {
  TXB_ASSERT(err != NULL);
  char text[sizeof err->message];
  va_list args;
  va_start(args, fmt);
  format_line(text, sizeof text, fmt, args);
  va_end(args);
  size_t size = strlen(text), room = sizeof err->message - 1, old = strlen(err->message);
  if (size + 2 > room)
    return err->rc; /* a prefix as long as the field would leave nothing of the cause */
  bool cut = old > room - size - 2;
  if (cut)
    old = room - size - 2;
  memmove(err->message + size + 2, err->message, old);
  memcpy(err->message, text, size);
  memcpy(err->message + size, ": ", 2);
  err->message[size + 2 + old] = '\0';
  if (cut)
    cut_at_character(err->message, size + 2 + old);
  return err->rc;
}

int txb_error_exit_code(const struct txb_error *err) {
  if (err->rc == TXB_OK)
    return 0;
  switch (err->origin) {
  case TXB_ORIGIN_USAGE:
    return 2;
  case TXB_ORIGIN_POSTGRES:
    return 3;
  case TXB_ORIGIN_KAFKA:
    return 4;
  case TXB_ORIGIN_SAFETY:
    return 5;
  case TXB_ORIGIN_NONE:
    break;
  }
  return err->rc == TXB_FENCED ? 5 : 1;
}

_Noreturn void txb_assert_failed(const char *condition, const char *file, int line) {
  fprintf(stderr, "txbroker: broken invariant: %s (%s:%d)\n", condition, file, line);
  abort();
}
