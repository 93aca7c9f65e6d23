/* Structured log on stderr: one line an event, logfmt or JSON. Whoever decides logs, once; a warning says how it goes
 * on. A library neither logs above debug nor exits: only process code (relay process, worker process, cli) calls this
 * above debug. */
#ifndef TXB_COMMON_LOG_H
#define TXB_COMMON_LOG_H

#include "common/error.h"
#include "common/slice.h"
#include "txbroker/log.h"

enum txb_log_format { TXB_LOG_LOGFMT, TXB_LOG_JSON };

/* Once, before threads start. The sink gets whole lines with their newline; NULL: stderr, by one write(2) a line. */
void txb_log_setup(enum txb_log_level level, enum txb_log_format format, void (*sink)(const char *line, size_t size));

/* The log of one thread, for a worker inside an application. */
struct txb_log_outlet {
  enum txb_log_level level; /* the least that is logged */
  txb_log_fn write;         /* NULL: as by txb_log_setup */
  void *context;
};
/* From now on what this thread logs goes there, until it is diverted again; NULL: as by txb_log_setup. Borrowed. Returns
 * what was before. */
const struct txb_log_outlet *txb_log_divert(const struct txb_log_outlet *outlet);
bool txb_log_enabled(enum txb_log_level level);

/* A field is a name and a value; names as in the tables: source, topic, partition, offset, id, group, rc. */
struct txb_field {
  const char *name; /* NULL: the field is left out */
  enum { TXB_FIELD_TEXT, TXB_FIELD_INT, TXB_FIELD_BYTES } kind;
  const char *text;
  int64_t number;
  struct txb_slice bytes;
};
#define TXB_F(n, v)  ((struct txb_field){.name = (n), .kind = TXB_FIELD_TEXT, .text = (v)})
#define TXB_FI(n, v) ((struct txb_field){.name = (n), .kind = TXB_FIELD_INT, .number = (int64_t)(v)})
#define TXB_FB(n, v) ((struct txb_field){.name = (n), .kind = TXB_FIELD_BYTES, .bytes = (v)})

/* The event's text: the first field of every line. */
#define TXB_MSG(text_) TXB_F("msg", (text_))

/* txb_log(TXB_LOG_INFO, TXB_MSG("lease taken"), TXB_F("source", name), TXB_FI("epoch", epoch)); any thread */
#define txb_log(level, ...)                                                                                            \
  txb_log_write((level), (const struct txb_field[]){__VA_ARGS__},                                                      \
                sizeof((const struct txb_field[]){__VA_ARGS__}) / sizeof(struct txb_field))
void txb_log_write(enum txb_log_level level, const struct txb_field *fields, size_t count);

#endif
