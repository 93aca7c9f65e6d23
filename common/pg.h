/* The port to libpq: a non-blocking connection, prepared statements, binary values, pipelines.
 *
 * Statements are prepared on a connection when first used there. All values go and come in binary. Every wait also
 * watches the stop descriptor, and ends with TXB_RETRY "stopping" when it is signalled. A connection belongs to one
 * thread. After any TXB_RETRY whose origin is TXB_ORIGIN_POSTGRES the connection may be dead: txb_pg_is_usable() tells.
 *
 * SQLSTATE to codes: 08*, 57P0*, 53*, 58*, 25P03, 25006 -> RETRY with TXB_ORIGIN_POSTGRES; 40*, 55P03, 55006, 57014,
 * TXB05 (keys changed) -> RETRY; TXB01 (compare-and-set missed) -> FENCED; TXB02 (an outcome that is not ok) -> POISON; 28*, 42501, TXB03,
 * TXB04 -> REFUSED with TXB_ORIGIN_SAFETY; 3D000 (no such database) -> REFUSED with TXB_ORIGIN_USAGE; 22*, 23*, 42*,
 * P0001 and the rest -> REFUSED.
 * A prepared statement that a handler deallocated, or whose result type a migration
 * changed, gives RETRY once and is prepared anew.
 */
#ifndef TXB_COMMON_PG_H
#define TXB_COMMON_PG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/error.h"
#include "common/slice.h"
#include "common/uuid.h"

struct txb_pg;
struct txb_pg_result;

/* A statement is a static object; its address is its identity. SQL uses $1.. with casts where the type is not plain. */
struct txb_pg_statement {
  const char *name; /* unique; the prepared statement's name on the server */
  const char *sql;  /* from an embedded .sql file */
};

struct txb_pg_options {
  const char *uri;              /* libpq connection string or URI; may hold a password: never logged */
  const char *application_name; /* "txbroker relay bank_a" */
  int connect_timeout_ms;       /* 0: 5000 */
  int stop_fd;                  /* -1: none */
  const char *settings;    /* more options, as in PGOPTIONS ("-c idle_in_transaction_session_timeout=5000"), or NULL */
  int tcp_user_timeout_ms; /* 0: libpq's default */
  bool builtins_only;      /* search_path is pg_catalog: nothing that others made in another schema can stand in for a
                              function or an operator of the server. For every connection that calls no handler */
};

/* Connects. RETRY with TXB_ORIGIN_POSTGRES when the server can't be reached or is starting; REFUSED when it answered no
 * (password, database, string). */
enum txb_rc txb_pg_open(const struct txb_pg_options *options, struct txb_pg **out,
                        struct txb_error *err) TXB_MUST_CHECK;
/* The same without waiting, for a loop that has other work: *out is only connecting. Names are resolved before it
 * returns. */
enum txb_rc txb_pg_open_begin(const struct txb_pg_options *options, struct txb_pg **out,
                              struct txb_error *err) TXB_MUST_CHECK;
/* Whenever txb_pg_socket is ready as txb_pg_poll_events says. TXB_OK: connected; TXB_AGAIN: not yet; else as txb_pg_open,
 * and it is to be closed. How long to wait is the caller's. */
enum txb_rc txb_pg_open_step(struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;
void txb_pg_close(struct txb_pg *pg); /* NULL is fine */
bool txb_pg_is_usable(const struct txb_pg *pg);
/* From now on every wait watches this descriptor instead (-1: none): for the last words of a process that was asked to
 * stop. */
void txb_pg_watch_stop(struct txb_pg *pg, int stop_fd);
/* Wraps a connection that the caller owns and goes on owning (txb_publish, plugins). It may be blocking and inside a
 * transaction. */
enum txb_rc txb_pg_borrow(void *pgconn, struct txb_pg **out, struct txb_error *err) TXB_MUST_CHECK;
/* Whether UTF-8 arrives as it is on a borrowed connection. REFUSED when its client_encoding would make other text of it.
 */
enum txb_rc txb_pg_utf8_check(const struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;
/* The PGconn itself, for plugin handlers. Borrowed. */
void *txb_pg_native(struct txb_pg *pg);
int txb_pg_socket(const struct txb_pg *pg);
int txb_pg_server_version(const struct txb_pg *pg); /* 150018 */
/* Host, port and database without any secret, for messages: "127.0.0.1:5432/bank_a". Borrowed. */
const char *txb_pg_name(const struct txb_pg *pg);
/* The user's name that the session was opened with. Borrowed. */
const char *txb_pg_user(const struct txb_pg *pg);
#define TXB_PG_MALFORMED "(malformed connection string)"
/* The same from a connection string that is not connected (never the password); TXB_PG_MALFORMED for one that libpq
 * can't read. */
void txb_pg_describe_uri(const char *uri, char *out, size_t out_size);

/* ---- parameters ------------------------------------------------------------------------------ */
#define TXB_PG_PARAMS_MAX 32
/* Values in the order of $1..; bytes are copied into one buffer, reusable after clear. */
struct txb_pg_params {
  struct txb_buffer bytes;
  int count;
  size_t start[TXB_PG_PARAMS_MAX];
  int length[TXB_PG_PARAMS_MAX]; /* -1: NULL */
  uint32_t type[TXB_PG_PARAMS_MAX];
};
void txb_pg_params_init(struct txb_pg_params *p);
void txb_pg_params_fini(struct txb_pg_params *p);
void txb_pg_params_clear(struct txb_pg_params *p);
void txb_pg_add_null(struct txb_pg_params *p, uint32_t type_oid);
void txb_pg_add_int8(struct txb_pg_params *p, int64_t v);
void txb_pg_add_int4(struct txb_pg_params *p, int32_t v);
void txb_pg_add_bool(struct txb_pg_params *p, bool v);
void txb_pg_add_text(struct txb_pg_params *p, struct txb_slice v);       /* absent slice: NULL */
void txb_pg_add_bytea(struct txb_pg_params *p, struct txb_slice v);      /* absent slice: NULL */
void txb_pg_add_jsonb(struct txb_pg_params *p, struct txb_slice v);      /* JSON text; absent: NULL */
void txb_pg_add_uuid(struct txb_pg_params *p, const struct txb_uuid *v); /* NULL: NULL */
void txb_pg_add_timestamptz(struct txb_pg_params *p, int64_t wall_us);
/* A value in the form in which the server gave it (txb_pg_bytes), of any type; absent: NULL. */
void txb_pg_add_raw(struct txb_pg_params *p, uint32_t type_oid, struct txb_slice v);
/* Arrays of one dimension: begin, one add per element (the scalar adders below), end. Elements go straight into the
 * buffer. */
void txb_pg_array_begin(struct txb_pg_params *p, uint32_t element_oid);
void txb_pg_array_int8(struct txb_pg_params *p, int64_t v);
void txb_pg_array_int4(struct txb_pg_params *p, int32_t v);
/* Text, bytea, uuid, or any type whose binary form is its bytes; absent: NULL. */
void txb_pg_array_bytes(struct txb_pg_params *p, struct txb_slice v);
void txb_pg_array_jsonb(struct txb_pg_params *p, struct txb_slice v);
void txb_pg_array_timestamptz(struct txb_pg_params *p, int64_t wall_us);
void txb_pg_array_end(struct txb_pg_params *p);

enum { /* the type oids used (pg_type.dat) */
       TXB_OID_BOOL = 16,
       TXB_OID_BYTEA = 17,
       TXB_OID_INT8 = 20,
       TXB_OID_INT2 = 21,
       TXB_OID_INT4 = 23,
       TXB_OID_TEXT = 25,
       TXB_OID_JSON = 114,
       TXB_OID_BYTEA_ARRAY = 1001,
       TXB_OID_TEXT_ARRAY = 1009,
       TXB_OID_TIMESTAMPTZ = 1184,
       TXB_OID_UUID = 2950,
       TXB_OID_JSONB = 3802,
       TXB_OID_INT8MULTIRANGE = 4536,
};

/* ---- one statement at a time ----------------------------------------------------------------- */
/* Runs one statement and waits. *out (may be NULL) is the caller's to free. params may be NULL. */
enum txb_rc txb_pg_query(struct txb_pg *pg, const struct txb_pg_statement *statement,
                         const struct txb_pg_params *params, struct txb_pg_result **out,
                         struct txb_error *err) TXB_MUST_CHECK;
/* Runs a script of several statements without parameters (migrations, BEGIN, SET); the text is trusted. */
enum txb_rc txb_pg_script(struct txb_pg *pg, const char *sql, struct txb_error *err) TXB_MUST_CHECK;

/* ---- pipeline -------------------------------------------------------------------------------- */
/* Queue statements, then sync; results come back in order, one per statement, then TXB_PG_SYNC. Nothing is sent before
 * flush or wait. Between begin and end txb_pg_query can't be used. An error in one statement skips those up to the next
 * sync: they answer TXB_PG_SKIPPED. */
enum txb_rc txb_pg_pipeline_begin(struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;
/* All results must have been read. */
enum txb_rc txb_pg_pipeline_end(struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_pg_send(struct txb_pg *pg, const struct txb_pg_statement *statement, const struct txb_pg_params *params,
                        struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_pg_sync(struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;
/* Writes what it can without waiting and reads what has come: call between slices of other work, so that the server
 * never blocks on a full socket. */
enum txb_rc txb_pg_pump(struct txb_pg *pg, struct txb_error *err) TXB_MUST_CHECK;
/* POLLIN, or POLLIN | POLLOUT while output is pending: for the caller's own poll. */
short txb_pg_poll_events(const struct txb_pg *pg);

enum txb_pg_kind { TXB_PG_ROWS, TXB_PG_SYNC, TXB_PG_ERROR, TXB_PG_SKIPPED };
/* The next answer if it is complete: TXB_OK and *kind_out; *out set for TXB_PG_ROWS; for TXB_PG_ERROR *err is filled
 * (rc as by SQLSTATE) though the call returns TXB_OK. TXB_AGAIN: not yet there. TXB_RETRY: the connection is gone.
 * Without an explicit BEGIN a sync is a commit: when that fails (a deferred constraint), a TXB_PG_ERROR comes before
 * its TXB_PG_SYNC and is not counted by txb_pg_pending. */
enum txb_rc txb_pg_next(struct txb_pg *pg, enum txb_pg_kind *kind_out, struct txb_pg_result **out,
                        struct txb_error *err) TXB_MUST_CHECK;
/* The same, waiting. timeout_ms < 0: no limit; time up: TXB_RETRY. */
enum txb_rc txb_pg_next_wait(struct txb_pg *pg, int timeout_ms, enum txb_pg_kind *kind_out, struct txb_pg_result **out,
                             struct txb_error *err) TXB_MUST_CHECK;
/* How many answers (statements and syncs) are still to come. */
size_t txb_pg_pending(const struct txb_pg *pg);

/* ---- results --------------------------------------------------------------------------------- */
void txb_pg_result_free(struct txb_pg_result *r); /* NULL is fine; a result outlives its connection */
void txb_pg_result_free_ptr(struct txb_pg_result **r);
int txb_pg_rows(const struct txb_pg_result *r);
/* The command tag ("COMMIT", "INSERT 0 3"): W1 reads it, since COMMIT of a failed transaction answers ROLLBACK without
 * an error. */
const char *txb_pg_tag(const struct txb_pg_result *r);
bool txb_pg_is_null(const struct txb_pg_result *r, int row, int column);
/* Asserts that type and size fit: a mismatch is a bug in a .sql file. Slices are borrowed from the result; bytes are
 * zero-copy. */
int64_t txb_pg_int8(const struct txb_pg_result *r, int row, int column);
int32_t txb_pg_int4(const struct txb_pg_result *r, int row, int column);
bool txb_pg_bool(const struct txb_pg_result *r, int row, int column);
int64_t txb_pg_timestamptz_us(const struct txb_pg_result *r, int row, int column); /* wall microseconds since 1970 */
/* The raw value: text, bytea, uuid; NULL: absent. */
struct txb_slice txb_pg_bytes(const struct txb_pg_result *r, int row, int column);
/* The JSON text inside jsonb; NULL: absent. */
struct txb_slice txb_pg_jsonb(const struct txb_pg_result *r, int row, int column);
void txb_pg_uuid(const struct txb_pg_result *r, int row, int column, struct txb_uuid *out);
/* A text column as a C string: libpq ends every value with a NUL. NULL: NULL. */
const char *txb_pg_text(const struct txb_pg_result *r, int row, int column);

#endif
