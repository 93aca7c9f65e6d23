/* Results on standard output, messages on standard error, tables. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "broker/cli/targets.h"
#include "common/memory.h"

void txb_print(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  (void)vprintf(fmt, args);
  va_end(args);
}

void txb_print_bytes(const void *data, size_t size) {
  if (size > 0)
    (void)fwrite(data, 1, size, stdout);
}

void txb_print_buffer(struct txb_buffer *b) {
  txb_print_bytes(b->data, b->size);
}

void txb_print_json(const struct txb_cli *cli, const json_t *value) {
  size_t flags = JSON_ENCODE_ANY | (cli->output == TXB_OUTPUT_JSONL ? JSON_COMPACT : JSON_INDENT(2));
  (void)json_dumpf(value, stdout, flags);
  (void)fputc('\n', stdout);
}

bool txb_print_flush(void) {
  static bool told; /* a command that flushes ends after a failure, and main flushes again */
  if (fflush(stdout) == 0 && !ferror(stdout))
    return true;
  if (!told)
    txb_say("can't write to standard output: %s", strerror(errno));
  told = true;
  return false;
}

void txb_say(const char *fmt, ...) {
  struct txb_buffer line;
  txb_buffer_init(&line);
  va_list args;
  va_start(args, fmt);
  txb_buffer_add_text(&line, "txbroker: ");
  txb_buffer_vaddf(&line, fmt, args);
  txb_buffer_add_text(&line, "\n");
  va_end(args);
  (void)fputs(txb_buffer_text(&line), stderr);
  txb_buffer_fini(&line);
}

const char *txb_next_step(const struct txb_error *err) {
  if (txb_target_timed_out(err))
    return "see in pg_locks who holds it up, and with --timeout wait longer";
  switch (err->origin) {
  case TXB_ORIGIN_USAGE:
    return "correct the configuration";
  case TXB_ORIGIN_POSTGRES:
    return "start the server, or correct host and port";
  case TXB_ORIGIN_KAFKA:
    return "start the brokers, or correct kafka.brokers";
  case TXB_ORIGIN_SAFETY:
    return strncmp(err->sqlstate, "28", 2) == 0 ? "correct user or password (~/.pgpass)"
                                                : "give the user what it needs";
  case TXB_ORIGIN_NONE:
    break;
  }
  return "see the message";
}

int txb_fail(const struct txb_error *err) {
  /* libpq's messages and our own end with one; librdkafka's don't. */
  bool who = strncmp(err->sqlstate, "28", 2) == 0; /* authentication: the server never says what to do */
  if ((err->origin == TXB_ORIGIN_KAFKA && err->rc == TXB_RETRY) || who)
    txb_say("%s; %s", err->message, txb_next_step(err));
  else
    txb_say("%s", err->message);
  return txb_error_exit_code(err);
}

bool txb_can_ask(void) {
  return isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1;
}

bool txb_ask_yes(const char *fmt, ...) {
  char answer[16] = "";
  va_list args;
  va_start(args, fmt);
  (void)vfprintf(stderr, fmt, args);
  va_end(args);
  (void)fputs(" [y/N] ", stderr);
  (void)fflush(stderr);
  return fgets(answer, sizeof(answer), stdin) != NULL && (answer[0] == 'y' || answer[0] == 'Y');
}

void txb_progress(const struct txb_cli *cli, const char *text) {
  if (!cli->progress)
    return;
  (void)fprintf(stderr, "\r\033[K%s", text == NULL ? "" : text);
  (void)fflush(stderr);
}

/* ---- tables ---------------------------------------------------------------------------------------------- */

void txb_table_init(struct txb_table *t, const struct txb_column *columns, size_t count) {
  *t = (struct txb_table){.columns = columns, .column_count = count};
}

void txb_table_fini(struct txb_table *t) {
  for (size_t i = 0; i < t->cell_count; i++)
    txb_free(t->cells[i]);
  txb_free(t->cells);
  *t = (struct txb_table){0};
}

void txb_table_cell(struct txb_table *t, const char *text) {
  if (t->cell_count == t->capacity) {
    void *cells = t->cells;
    size_t wanted = t->capacity == 0 ? 64 : t->capacity * 2;
    if (txb_realloc_array(&cells, wanted, sizeof(char *), NULL) != TXB_OK) {
      t->failed = true;
      return;
    }
    t->cells = cells;
    t->capacity = wanted;
  }
  if (txb_strdup(text == NULL ? "-" : text, &t->cells[t->cell_count], NULL) != TXB_OK)
    t->failed = true;
  else
    t->cell_count++;
}

void txb_table_cellf(struct txb_table *t, const char *fmt, ...) {
  struct txb_buffer text;
  txb_buffer_init(&text);
  va_list args;
  va_start(args, fmt);
  txb_buffer_vaddf(&text, fmt, args);
  va_end(args);
  txb_table_cell(t, txb_buffer_text(&text));
  txb_buffer_fini(&text);
}

/* Characters, not bytes: every byte but those that continue one. */
static size_t width(const char *text) {
  size_t n = 0;
  for (; *text != '\0'; text++)
    n += ((unsigned char)*text & 0xC0) != 0x80;
  return n;
}

static void print_cell(const char *text, size_t wide, enum txb_align align, bool last) {
  size_t pad = wide - width(text);
  if (align == TXB_RIGHT)
    txb_print("%*s%s", (int)pad, "", text);
  else
    txb_print("%s%*s", text, last ? 0 : (int)pad, "");
  if (!last)
    txb_print("  ");
}

void txb_table_print(const struct txb_table *t, const struct txb_cli *cli, int indent) {
  size_t wide[32] = {0};
  size_t columns = t->column_count;
  TXB_ASSERT(columns > 0 && columns <= TXB_ARRAY_SIZE(wide));
  for (size_t c = 0; c < columns; c++)
    wide[c] = width(t->columns[c].title);
  for (size_t i = 0; i < t->cell_count; i++)
    if (width(t->cells[i]) > wide[i % columns])
      wide[i % columns] = width(t->cells[i]);
  txb_print("%*s%s", indent, "", txb_color(cli, "\033[1m"));
  for (size_t c = 0; c < columns; c++)
    print_cell(t->columns[c].title, wide[c], t->columns[c].align, c + 1 == columns);
  txb_print("%s\n", txb_color(cli, "\033[0m"));
  for (size_t i = 0; i + columns <= t->cell_count; i += columns) {
    txb_print("%*s", indent, "");
    for (size_t c = 0; c < columns; c++)
      print_cell(t->cells[i + c], wide[c], t->columns[c].align, c + 1 == columns);
    txb_print("\n");
  }
  if (t->failed)
    txb_say("out of memory: rows are missing");
}

void txb_format_age(int64_t ms, char out[24]) {
  if (ms < 0)
    ms = 0;
  if (ms < 1000)
    (void)snprintf(out, 24, "%" PRId64 " ms", ms);
  else if (ms < 120 * 1000)
    (void)snprintf(out, 24, "%" PRId64 ".%" PRId64 " s", ms / 1000, ms % 1000 / 100);
  else if (ms < 7200LL * 1000)
    (void)snprintf(out, 24, "%" PRId64 " min", ms / 60000);
  else if (ms < 172800LL * 1000)
    (void)snprintf(out, 24, "%" PRId64 " h", ms / 3600000);
  else
    (void)snprintf(out, 24, "%" PRId64 " d", ms / 86400000);
}

const char *txb_color(const struct txb_cli *cli, const char *code) {
  return cli->color ? code : "";
}
