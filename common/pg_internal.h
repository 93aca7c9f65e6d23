/* What the files common/pg*.c share, and nobody else includes. */
#ifndef TXB_COMMON_PG_INTERNAL_H
#define TXB_COMMON_PG_INTERNAL_H

#include <libpq-fe.h>

#include "common/memory.h"
#include "common/pg.h"

/* A statement that the server knows, or will know when the pipeline gets there. */
struct txb_pg_prepared {
  const struct txb_pg_statement *statement;
  bool answered;    /* the server said so */
  uint64_t segment; /* until then: between which syncs the preparation lies */
};

/* An answer that is to come. */
struct txb_pg_expected {
  enum { TXB_PG_EXPECT_PREPARE, TXB_PG_EXPECT_STATEMENT, TXB_PG_EXPECT_SYNC } kind;
  const struct txb_pg_statement *statement;
  uint32_t generation;
};

struct txb_pg {
  PGconn *conn;
  bool borrowed; /* somebody else's: never closed, nothing is left behind on it */
  bool broken;   /* lost, or what it would answer is unknown */
  bool in_pipeline;
  bool output_pending;
  short connecting; /* what the socket must be ready for until it is connected; 0: it is */
  int stop_fd;
  char name[160];

  struct txb_pg_prepared *prepared;
  size_t prepared_count, prepared_capacity;
  uint32_t generation; /* of statement names: grows when the server has forgotten some */

  struct txb_pg_expected *expected; /* ring */
  size_t expected_first, expected_count, expected_capacity;
  size_t pending;                 /* of those, what the caller will get */
  uint64_t segment;               /* syncs queued so far */
  struct txb_error prepare_error; /* of the preparation just answered: rc TXB_OK when there was none */
};

/* Result <-> PGresult: the opaque type is libpq's own object, so a result has one owner and costs no allocation of
 * ours. */
static inline struct txb_pg_result *txb_pg_result_wrap(PGresult *res) {
  return (struct txb_pg_result *)res;
}

static inline const PGresult *txb_pg_result_native(const struct txb_pg_result *r) {
  return (const PGresult *)r;
}

/* One line, runs of blanks made one, without the LOCATION that verbose messages end with. */
void txb_pg_clean_text(const char *text, char *out, size_t out_size);
/* Raises what the server or libpq said in a failed result. Marks the connection broken if it is, and forgets prepared
 * statements that the server lost. statement may be NULL. */
enum txb_rc txb_pg_fail_result(struct txb_pg *pg, const PGresult *res, const struct txb_pg_statement *statement,
                               struct txb_error *err);
/* The connection is gone: marks it and raises TXB_RETRY. */
enum txb_rc txb_pg_fail_lost(struct txb_pg *pg, struct txb_error *err);
/* Raises a failed attempt to connect. */
enum txb_rc txb_pg_fail_connect(const char *name, const char *libpq_text, struct txb_error *err);
/* The code for an SQLSTATE. */
enum txb_rc txb_pg_rc_of_sqlstate(const char *sqlstate, enum txb_origin *origin_out);

#endif
