/* What PostgreSQL and libpq say, as txbroker's errors: one line, a code that names what to do, never a secret. */
#include <stdio.h>
#include <string.h>

#include "common/pg_internal.h"

/* By prefix, the first that fits. The rest is REFUSED: the request itself is wrong. */
static const struct {
  const char *prefix;
  enum txb_rc rc;
  enum txb_origin origin;
} sqlstates[] = {
    {"08", TXB_RETRY, TXB_ORIGIN_POSTGRES},    /* connection */
    {"57P0", TXB_RETRY, TXB_ORIGIN_POSTGRES},  /* shutting down, crashed, starting, database dropped */
    {"57P05", TXB_RETRY, TXB_ORIGIN_POSTGRES}, /* idle session timeout */
    {"53", TXB_RETRY, TXB_ORIGIN_POSTGRES},    /* too many connections, no memory, disk full */
    {"58", TXB_RETRY, TXB_ORIGIN_POSTGRES},    /* operating system, input and output */
    {"25P03", TXB_RETRY, TXB_ORIGIN_POSTGRES}, /* idle in transaction: the server has closed the session */
    {"25006", TXB_RETRY, TXB_ORIGIN_POSTGRES}, /* read-only: a standby, until it is promoted */
    {"57014", TXB_RETRY, TXB_ORIGIN_NONE},     /* cancelled, by somebody or by statement_timeout */
    {"40", TXB_RETRY, TXB_ORIGIN_NONE},        /* deadlock, serialization */
    {"55P03", TXB_RETRY, TXB_ORIGIN_NONE},     /* lock_timeout */
    {"55006", TXB_RETRY, TXB_ORIGIN_NONE},     /* object in use */
    {"26000", TXB_RETRY, TXB_ORIGIN_NONE},     /* somebody deallocated our prepared statement: it is prepared again */
    {"TXB01", TXB_FENCED, TXB_ORIGIN_SAFETY},  /* compare-and-set missed */
    {"TXB02", TXB_POISON, TXB_ORIGIN_NONE},    /* an outcome that is not ok */
    {"TXB03", TXB_REFUSED, TXB_ORIGIN_SAFETY}, /* batch left open at commit */
    {"TXB04", TXB_REFUSED, TXB_ORIGIN_SAFETY}, /* schema, safety */
    {"TXB05", TXB_RETRY, TXB_ORIGIN_NONE},     /* compare-and-set: somebody changed the failed messages */
    {"28", TXB_REFUSED, TXB_ORIGIN_SAFETY},    /* authentication */
    {"42501", TXB_REFUSED, TXB_ORIGIN_SAFETY}, /* permission */
    {"3D000", TXB_REFUSED, TXB_ORIGIN_USAGE},  /* no such database */
};

enum txb_rc txb_pg_rc_of_sqlstate(const char *sqlstate, enum txb_origin *origin_out) {
  for (size_t i = 0; i < TXB_ARRAY_SIZE(sqlstates); i++)
    if (strncmp(sqlstate, sqlstates[i].prefix, strlen(sqlstates[i].prefix)) == 0) {
      *origin_out = sqlstates[i].origin;
      return sqlstates[i].rc;
    }
  *origin_out = TXB_ORIGIN_NONE;
  return TXB_REFUSED;
}

static bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

void txb_pg_clean_text(const char *text, char *out, size_t out_size) {
  size_t size = 0;
  bool line_start = true, blank = false, joined = false;
  for (const char *p = text; *p != '\0' && size + 2 < out_size; p++) {
    if (line_start && strncmp(p, "LOCATION:", 9) == 0) {
      p += strcspn(p, "\n");
      if (*p == '\0')
        break;
    }
    line_start = *p == '\n';
    joined = joined || (line_start && size > 0 && strchr(".:;,", out[size - 1]) == NULL);
    if (is_blank(*p)) {
      blank = size > 0;
      continue;
    }
    if (joined && size + 3 < out_size)
      out[size++] = ';';
    if (blank)
      out[size++] = ' ';
    blank = joined = false;
    out[size++] = *p;
  }
  out[size] = '\0';
}

/* A detail may quote a whole row: bounded, so that the hint behind it is not lost. Cut between characters. */
static void copy_bounded(const char *text, char *out, size_t out_size) {
  size_t size = 0, all = strlen(text);
  while (size < all) {
    size_t step = txb_utf8_character(txb_slice_of(text + size, all - size));
    step = step == 0 ? 1 : step;
    if (size + step >= out_size)
      break;
    size += step;
  }
  memcpy(out, text, size);
  out[size] = '\0';
}

enum txb_rc txb_pg_fail_lost(struct txb_pg *pg, struct txb_error *err) {
  char text[400];
  pg->broken = true;
  txb_pg_clean_text(PQerrorMessage(pg->conn), text, sizeof text);
  return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "connection to %s lost: %s", pg->name,
                       text[0] != '\0' ? text : "it was given up before");
}

/* The server no longer has what we prepared (DISCARD or DEALLOCATE by a handler), or has it with a result that changed
 * since: prepare under new names from now on. */
static bool prepared_statement_is_stale(const char *sqlstate, const PGresult *res) {
  const char *function = PQresultErrorField(res, PG_DIAG_SOURCE_FUNCTION);
  return strcmp(sqlstate, "26000") == 0 ||
         (strcmp(sqlstate, "0A000") == 0 && function != NULL && strcmp(function, "RevalidateCachedQuery") == 0);
}

enum txb_rc txb_pg_fail_result(struct txb_pg *pg, const PGresult *res, const struct txb_pg_statement *statement,
                               struct txb_error *err) {
  const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);
  if (sqlstate == NULL) { /* libpq's own */
    if (PQstatus(pg->conn) != CONNECTION_OK)
      return txb_pg_fail_lost(pg, err);
    pg->broken = true;
    char text[400];
    txb_pg_clean_text(PQresultErrorMessage(res), text, sizeof text);
    return TXB_FAIL(err, TXB_FATAL, "client of %s failed: %s", pg->name, text);
  }
  enum txb_origin origin;
  enum txb_rc rc = txb_pg_rc_of_sqlstate(sqlstate, &origin);
  if (prepared_statement_is_stale(sqlstate, res)) {
    pg->prepared_count = 0;
    pg->generation++;
    rc = TXB_RETRY;
  }
  const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
  const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
  const char *hint = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT);
  char message_text[352], detail_text[240], hint_text[200];
  copy_bounded(message != NULL ? message : "error without a text", message_text, sizeof message_text);
  copy_bounded(detail != NULL ? detail : "", detail_text, sizeof detail_text);
  copy_bounded(hint != NULL ? hint : "", hint_text, sizeof hint_text);
  /* Errors of class 42 and XX lie in the statement more often than in what it was given: name it. */
  bool name_it = statement != NULL && (strncmp(sqlstate, "42", 2) == 0 || strncmp(sqlstate, "XX", 2) == 0);
  txb_error_set(err, rc, origin, __FILE__, __LINE__, "%s%s%s%s%s%s%s", name_it ? statement->name : "",
                name_it ? ": " : "", message_text, detail_text[0] != '\0' ? "; DETAIL: " : "", detail_text,
                hint_text[0] != '\0' ? "; HINT: " : "", hint_text);
  if (err != NULL)
    snprintf(err->sqlstate, sizeof err->sqlstate, "%s", sqlstate);
  return rc;
}

/* While connecting, libpq gives the server's answer as text only; in verbose form ("FATAL:  28P01: ...") the code is in
 * it. The last one counts: with several hosts each has added its own. */
static bool find_sqlstate(const char *text, char out[6]) {
  static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  bool found = false;
  for (const char *p = strstr(text, ":  "); p != NULL; p = strstr(p + 1, ":  "))
    if (strspn(p + 3, digits) == 5 && p[8] == ':' && p[9] == ' ') {
      memcpy(out, p + 3, 5);
      out[5] = '\0';
      found = true;
    }
  return found;
}

/* What libpq says when the fault is in the connection string or in what both sides insist on: trying again is useless.
 * Untranslated whatever the application's language, since txb_pg_open asks for it so. */
static const char *const refused_texts[] = {
    "invalid ",
    "no password supplied",
    "does not support",
    "but SSL was required",
    "certificate",
    "definition of service",
    "syntax error in service",
    "private key",
    "root.crt",
    "channel binding required",
    "could not match",
    "is not allowed",
    "authentication method",
};

enum txb_rc txb_pg_fail_connect(const char *name, const char *libpq_text, struct txb_error *err) {
  char text[400], sqlstate[6] = "";
  enum txb_origin origin = TXB_ORIGIN_POSTGRES;
  enum txb_rc rc = TXB_RETRY;
  if (find_sqlstate(libpq_text, sqlstate)) {
    rc = txb_pg_rc_of_sqlstate(sqlstate, &origin);
  } else {
    for (size_t i = 0; i < TXB_ARRAY_SIZE(refused_texts); i++)
      if (strstr(libpq_text, refused_texts[i]) != NULL) {
        rc = TXB_REFUSED;
        origin = TXB_ORIGIN_USAGE;
      }
  }
  txb_pg_clean_text(libpq_text, text, sizeof text);
  char noise[9]; /* for the reader */
  snprintf(noise, sizeof noise, "%s: ", sqlstate);
  char *code = sqlstate[0] != '\0' ? strstr(text, noise) : NULL;
  if (code != NULL)
    memmove(code, code + strlen(noise), strlen(code + strlen(noise)) + 1);
  txb_error_set(err, rc, origin, __FILE__, __LINE__, "cannot connect to %s: %s", name, text);
  if (err != NULL)
    memcpy(err->sqlstate, sqlstate, sizeof err->sqlstate);
  return rc;
}
