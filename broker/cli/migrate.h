/* The schema txb of a database: what it is, and making it what this program needs. Forward only.
 *
 * Each migration and its record are one transaction: a crash leaves it applied and recorded, or neither, and the next
 * init goes on from there.
 */
#ifndef TXB_BROKER_CLI_MIGRATE_H
#define TXB_BROKER_CLI_MIGRATE_H

#include <jansson.h>

#include "common/pg.h"

enum txb_schema_state {
  TXB_SCHEMA_MISSING, /* none at all */
  TXB_SCHEMA_HIDDEN,  /* there is one, but this user may not look at it */
  TXB_SCHEMA_OLDER,   /* init would add to it */
  TXB_SCHEMA_CURRENT,
  TXB_SCHEMA_NEWER,    /* made by a newer program */
  TXB_SCHEMA_DIFFERENT /* a migration was changed after it had been applied */
};

struct txb_schema {
  enum txb_schema_state state;
  int version;     /* of the database; 0: none */
  int program;     /* of this program */
  bool recovery;   /* a standby: takes no writes */
  char which[100]; /* DIFFERENT: the file */
  char user[64];   /* who this connection is */
};

enum txb_rc txb_schema_look(struct txb_pg *pg, struct txb_schema *out, struct txb_error *err) TXB_MUST_CHECK;
/* TXB_OK when it is current, else TXB_REFUSED with TXB_ORIGIN_SAFETY and what to do. */
enum txb_rc txb_schema_need(struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;

struct txb_migrate_options {
  int64_t partition_rows;
  int partitions_ahead;
  const char *const *grants; /* "USER=ROLE", NULL-ended; NULL: none */
};
/* Brings the schema up to date, makes the first partitions, grants roles. report (an object) gets version, applied,
 * partitions, inbox_partitions, granted. Several at once wait for each other, which is said on standard error;
 * afterwards the connection holds no lock. TXB_REFUSED with TXB_ORIGIN_SAFETY: newer or changed schema, standby, no
 * permission. */
enum txb_rc txb_migrate(struct txb_pg *pg, const struct txb_migrate_options *options, json_t *report,
                        struct txb_error *err) TXB_MUST_CHECK;

#endif
