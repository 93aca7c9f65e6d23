/* The one way in which txbroker's functions fail.
 *
 * A return code names what the caller must do next, never what went wrong inside; what went wrong is text in struct txb_error. Every function
 * that can fail returns enum txb_rc, must be checked, and takes a struct txb_error * as its last argument, which may be NULL: then only the code is
 * told. On failure its outputs are untouched.
 */
#ifndef TXBROKER_ERROR_H
#define TXBROKER_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TXB_EXPORT            __attribute__((visibility("default")))
#define TXB_MUST_CHECK        __attribute__((warn_unused_result))
#define TXB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define TXB_EXPORT
#define TXB_MUST_CHECK
#define TXB_PRINTF(fmt, args)
#endif

enum txb_rc {
  TXB_OK = 0, /* done */
  TXB_AGAIN,  /* nothing to do right now: call again when the descriptor is readable or the time has come */
  TXB_RETRY, /* a passing fault (server gone, deadlock, time-out): the same call may succeed later; nothing was changed */
  TXB_DUPLICATE, /* already done before: treat as done */
  TXB_REFUSED, /* the request is wrong: change it (bad argument, over a limit, bad configuration); repeating it is useless */
  TXB_POISON, /* this one message can't be handled, ever: set it aside, go on with the others */
  TXB_FENCED, /* somebody else holds the lease or partition now: drop all state, start from what is stored */
  TXB_FATAL, /* this object is unusable (out of memory, broken invariant, fatal client error): free it; a new one may work */
};

/* Which side the failure came from; decides the program's exit code. */
enum txb_origin {
  TXB_ORIGIN_NONE = 0,
  TXB_ORIGIN_USAGE,    /* arguments or configuration: exit 2 */
  TXB_ORIGIN_POSTGRES, /* PostgreSQL unreachable: exit 3 */
  TXB_ORIGIN_KAFKA,    /* Kafka unreachable: exit 4 */
  TXB_ORIGIN_SAFETY,   /* refused for safety (schema version, fenced, permission): exit 5 */
};

struct txb_error {
  enum txb_rc rc;
  enum txb_origin origin;
  char sqlstate[6]; /* PostgreSQL's code, or "" */
  int kafka_code;   /* librdkafka's code, or 0 */
  const char *file; /* where it was raised; static storage */
  int line;
  char message[600]; /* one line of text with context; never holds a secret */
};

/* Name of a code as written above without its prefix ("retry"). Static storage. */
TXB_EXPORT const char *txb_rc_name(enum txb_rc rc);

#ifdef __cplusplus
}
#endif
#endif
