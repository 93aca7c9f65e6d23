/* Opening, borrowing and closing connections, and what may be said about a connection string: never its password.
 *
 * libpq resolves host names by getaddrinfo, which blocks; all else is polled together with the stop descriptor.
 */
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/pg_internal.h"

#define CONNECT_TIMEOUT_MS 5000
#define KEYWORDS_MAX       96

static void conninfo_free(PQconninfoOption **options) {
  PQconninfoFree(*options);
}

static const char *conninfo_value(const PQconninfoOption *options, const char *keyword) {
  for (const PQconninfoOption *o = options; o->keyword != NULL; o++)
    if (strcmp(o->keyword, keyword) == 0)
      return o->val;
  return NULL;
}

static bool is_uri(const char *text) {
  return strncmp(text, "postgresql://", 13) == 0 || strncmp(text, "postgres://", 11) == 0;
}

/* A password with an unescaped '@', '/' or ':' is cut by libpq in the wrong place: its rest becomes host, port or
 * database, which go into messages. */
static bool password_spills(const char *uri, const PQconninfoOption *options) {
  const char *host = conninfo_value(options, "host"), *port = conninfo_value(options, "port");
  const char *dbname = conninfo_value(options, "dbname");
  if (!is_uri(uri))
    return false;
  return (host != NULL && strchr(host, '@') != NULL) || (port != NULL && port[strspn(port, "0123456789,")] != '\0') ||
         (dbname != NULL && strchr(dbname, '@') != NULL);
}

static size_t blanks(const char *p) {
  return strspn(p, " \t\n\v\f\r");
}

/* The keyword as libpq's own table has it, which may be shown; NULL: libpq has no such keyword. */
static const char *known_keyword(const PQconninfoOption *options, const char *text, size_t size) {
  for (const PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++)
    if (strlen(o->keyword) == size && memcmp(o->keyword, text, size) == 0)
      return o->keyword;
  return NULL;
}

/* The end of a value as libpq finds it; NULL: its quote is never closed. */
static const char *value_end(const char *p) {
  bool quoted = *p == '\'';
  for (p += quoted; *p != '\0'; p++) {
    if (*p == '\\' && p[1] != '\0')
      p++;
    else if (quoted && *p == '\'')
      return p + 1;
    else if (!quoted && blanks(p) > 0)
      return p;
  }
  return quoted ? NULL : p;
}

/* Follows libpq through keyword=value pairs to the fault. What stands where a keyword should be may be the second half
 * of a password: it is counted, not shown. libpq's own words can't be used: they quote it, in marks that differ from
 * language to language. */
static void explain_pairs(const char *p, char *out, size_t out_size) {
  TXB_CLEANUP(conninfo_free) PQconninfoOption *options = PQconndefaults();
  const char *last = NULL;
  for (int pair = 1;; pair++) {
    p += blanks(p);
    size_t size = strcspn(p, "= \t\n\v\f\r");
    const char *equals = p + size + blanks(p + size), *keyword = known_keyword(options, p, size);
    if (*equals != '=' && last != NULL) {
      snprintf(out, out_size, "what follows the value of %s is no keyword=value", last);
      return;
    }
    if (*equals != '=' || keyword == NULL) {
      snprintf(out, out_size,
               *equals != '=' ? "it begins with no keyword=value" : "libpq knows no keyword like number %d", pair);
      return;
    }
    last = keyword;
    p = value_end(equals + 1 + blanks(equals + 1));
    if (p == NULL) {
      snprintf(out, out_size, "the quote that begins the value of %s is not closed", last);
      return;
    }
  }
}

static enum txb_rc fail_malformed_uri(struct txb_error *err) {
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE,
                       "malformed PostgreSQL connection URI (not shown: it may hold a password): it is "
                       "postgresql://user:password@host:port/database?keyword=value with libpq's keywords; write '@', "
                       "':', '/' and '%%' in user and password as %%40, %%3A, %%2F and %%25");
}

static enum txb_rc parse_uri(const char *uri, PQconninfoOption **out, struct txb_error *err) {
  char *message = NULL, reason[120];
  PQconninfoOption *options = PQconninfoParse(uri, &message);
  if (options == NULL && message == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory: connection string");
  PQfreemem(message);
  if (options == NULL && is_uri(uri))
    return fail_malformed_uri(err);
  if (options == NULL) {
    explain_pairs(uri, reason, sizeof reason);
    return TXB_FAIL_FROM(
        err, TXB_REFUSED, TXB_ORIGIN_USAGE,
        "malformed PostgreSQL connection string (not shown: it may hold a password): %s; write "
        "keyword=value pairs, a value with blanks in single quotes, and ' and \\ in it as \\' and \\\\",
        reason);
  }
  if (password_spills(uri, options)) {
    PQconninfoFree(options);
    return fail_malformed_uri(err);
  }
  *out = options;
  return TXB_OK;
}

static void describe(const char *host, const char *port, const char *dbname, char *out, size_t out_size) {
  snprintf(out, out_size, "%s:%s/%s", host != NULL && host[0] != '\0' ? host : "local",
           port != NULL && port[0] != '\0' ? port : "5432", dbname != NULL ? dbname : "");
}

/* As libpq takes it: from the string, else from the environment or a service that it names, else built in. */
static const char *value_or_default(const PQconninfoOption *options, const PQconninfoOption *defaults,
                                    const char *keyword) {
  const char *value = conninfo_value(options, keyword);
  if (value != NULL && value[0] != '\0')
    return value;
  return defaults != NULL ? conninfo_value(defaults, keyword) : NULL;
}

void txb_pg_describe_uri(const char *uri, char *out, size_t out_size) {
  TXB_CLEANUP(conninfo_free) PQconninfoOption *options = NULL, *defaults = NULL;
  if (parse_uri(uri, &options, NULL) != TXB_OK) {
    snprintf(out, out_size, TXB_PG_MALFORMED);
    return;
  }
  const char *service = conninfo_value(options, "service"), *host = conninfo_value(options, "host");
  if (service != NULL && host == NULL) {
    snprintf(out, out_size, "service %s", service);
    return;
  }
  defaults = PQconndefaults();
  if (host == NULL)
    host = conninfo_value(options, "hostaddr");
  if (host == NULL)
    host = value_or_default(options, defaults, "host");
  if (host == NULL)
    host = value_or_default(options, defaults, "hostaddr");
  const char *dbname = value_or_default(options, defaults, "dbname");
  if (dbname == NULL) /* the database that libpq takes then */
    dbname = value_or_default(options, defaults, "user");
  describe(host, value_or_default(options, defaults, "port"), dbname, out, out_size);
}

/* ---- opening --------------------------------------------------------------------------------- */

struct keywords {
  const char *name[KEYWORDS_MAX], *value[KEYWORDS_MAX];
  int count;
};

/* The last of equal keywords counts, as in libpq. */
static void put_keyword(struct keywords *k, const char *name, const char *value) {
  for (int i = 0; i < k->count; i++)
    if (strcmp(k->name[i], name) == 0) {
      k->value[i] = value;
      return;
    }
  TXB_ASSERT(k->count < KEYWORDS_MAX - 1);
  k->name[k->count] = name;
  k->value[k->count++] = value;
}

/* A dead peer is found in half a minute unless the user says otherwise: the system's default is two hours. */
static const char *const keepalives[][2] = {
    {"keepalives_idle", "10"}, {"keepalives_interval", "5"}, {"keepalives_count", "4"}};

/* Called for a notice of any kind: libpq would print it to stderr. */
static void on_notice(void *context, const PGresult *res) {
  const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY),
             *severity = PQresultErrorField(res, PG_DIAG_SEVERITY);
  const struct txb_pg *pg = context;
  txb_log(TXB_LOG_DEBUG, TXB_MSG("notice"), TXB_F("database", pg->name), TXB_F("severity", severity),
          TXB_F("text", text != NULL ? text : PQresultErrorMessage(res)));
}

static enum txb_rc start(const struct txb_pg_options *o, const PQconninfoOption *parsed, struct txb_pg *pg,
                         struct txb_error *err) {
  struct keywords k = {.count = 0};
  char timeout[16];
  const char *user_settings = conninfo_value(parsed, "options");
  if (user_settings == NULL)
    user_settings = getenv("PGOPTIONS");
  for (const PQconninfoOption *p = parsed; p->keyword != NULL; p++)
    if (p->val != NULL)
      put_keyword(&k, p->keyword, p->val);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(keepalives); i++)
    if (conninfo_value(parsed, keepalives[i][0]) == NULL)
      put_keyword(&k, keepalives[i][0], keepalives[i][1]);
  if (o->application_name != NULL)
    put_keyword(&k, "application_name", o->application_name);
  put_keyword(&k, "client_encoding", "UTF8");
  if (o->tcp_user_timeout_ms > 0) {
    snprintf(timeout, sizeof timeout, "%d", o->tcp_user_timeout_ms);
    put_keyword(&k, "tcp_user_timeout", timeout);
  }
  struct txb_buffer settings TXB_CLEANUP(txb_buffer_fini);
  txb_buffer_init(&settings);
  if (o->settings != NULL || o->builtins_only) { /* ours stand behind the user's, so that ours count */
    if (user_settings != NULL)
      txb_buffer_addf(&settings, "%s ", user_settings);
    txb_buffer_addf(&settings, "%s%s", o->builtins_only ? "-c search_path=pg_catalog,pg_temp " : "",
                    o->settings != NULL ? o->settings : "");
    put_keyword(&k, "options", txb_buffer_text(&settings));
    TXB_TRY(txb_buffer_check(&settings, err));
  }
  k.name[k.count] = NULL;
  k.value[k.count] = NULL;
  pg->conn = PQconnectStartParams(k.name, k.value, 0);
  if (pg->conn == NULL)
    return TXB_FAIL(err, TXB_FATAL, "out of memory: connection");
  PQsetNoticeReceiver(pg->conn, on_notice, pg);
  PQsetErrorVerbosity(pg->conn, PQERRORS_VERBOSE); /* while connecting, only the text holds the SQLSTATE */
  if (PQstatus(pg->conn) == CONNECTION_BAD)
    return txb_pg_fail_connect(pg->name, PQerrorMessage(pg->conn), err);
  return TXB_OK;
}

static enum txb_rc connected(struct txb_pg *pg, struct txb_error *err) {
  PQsetErrorVerbosity(pg->conn, PQERRORS_DEFAULT);
  if (PQsetnonblocking(pg->conn, 1) != 0)
    return txb_pg_fail_lost(pg, err);
  describe(PQhost(pg->conn), PQport(pg->conn), PQdb(pg->conn), pg->name, sizeof pg->name);
  return TXB_OK;
}

/* One step of libpq's; TXB_AGAIN: the socket must be ready first. */
static enum txb_rc step(struct txb_pg *pg, struct txb_error *err) {
  switch (PQconnectPoll(pg->conn)) {
  case PGRES_POLLING_OK:
    pg->connecting = 0;
    return connected(pg, err);
  case PGRES_POLLING_READING:
    pg->connecting = POLLIN;
    return TXB_AGAIN;
  case PGRES_POLLING_WRITING:
  case PGRES_POLLING_ACTIVE:
    pg->connecting = POLLOUT;
    return TXB_AGAIN;
  case PGRES_POLLING_FAILED:
    break;
  }
  return txb_pg_fail_connect(pg->name, PQerrorMessage(pg->conn), err);
}

static enum txb_rc finish(const struct txb_pg_options *o, struct txb_pg *pg, struct txb_error *err) {
  int timeout_ms = o->connect_timeout_ms > 0 ? o->connect_timeout_ms : CONNECT_TIMEOUT_MS;
  int64_t until = txb_clock_steady_us() + (int64_t)timeout_ms * 1000;
  enum txb_rc rc = TXB_AGAIN;
  while (rc == TXB_AGAIN) {
    struct pollfd fds[2] = {{.fd = PQsocket(pg->conn), .events = pg->connecting}, {.fd = o->stop_fd, .events = POLLIN}};
    int64_t left = until - txb_clock_steady_us();
    int ready;
    TXB_TRY(txb_wait(fds, 2, left > 0 ? left : 0, &ready, err));
    if (fds[1].revents != 0)
      return TXB_FAIL(err, TXB_RETRY, "stopping");
    if (ready == 0)
      return TXB_FAIL_FROM(err, TXB_RETRY, TXB_ORIGIN_POSTGRES, "cannot connect to %s: no answer within %d ms",
                           pg->name, timeout_ms);
    rc = step(pg, err);
  }
  return rc;
}

/* libpq speaks the application's language, and only its text tells a wrong setting from a server that is away: in this
 * thread it says it in the words that txb_pg_fail_connect knows. Without memory for it they stay as they are, and what
 * should be refused is tried again. */
static locale_t speak_plainly(locale_t *old_out) {
  locale_t base = duplocale(uselocale((locale_t)0)), plain = (locale_t)0;
  if (base != (locale_t)0)
    plain = newlocale(LC_MESSAGES_MASK, "C", base);
  if (plain == (locale_t)0 && base != (locale_t)0)
    freelocale(base);
  *old_out = plain != (locale_t)0 ? uselocale(plain) : (locale_t)0;
  return plain;
}

static void speak_as_before(locale_t plain, locale_t old) {
  if (plain == (locale_t)0)
    return;
  uselocale(old);
  freelocale(plain);
}

static enum txb_rc open_with(const struct txb_pg_options *options, bool wait, struct txb_pg **out,
                             struct txb_error *err) {
  TXB_CLEANUP(conninfo_free) PQconninfoOption *parsed = NULL;
  TXB_TRY(parse_uri(options->uri, &parsed, err));
  void *memory;
  TXB_TRY(txb_alloc(sizeof(struct txb_pg), &memory, err));
  struct txb_pg *pg = memory;
  pg->stop_fd = options->stop_fd;
  pg->connecting = POLLOUT;
  txb_pg_describe_uri(options->uri, pg->name, sizeof pg->name);
  locale_t old, plain = speak_plainly(&old);
  enum txb_rc rc = start(options, parsed, pg, err);
  if (rc == TXB_OK && wait)
    rc = finish(options, pg, err);
  speak_as_before(plain, old);
  if (rc != TXB_OK) {
    txb_pg_close(pg);
    return rc;
  }
  *out = pg;
  return TXB_OK;
}

enum txb_rc txb_pg_open(const struct txb_pg_options *options, struct txb_pg **out, struct txb_error *err) {
  return open_with(options, true, out, err);
}

enum txb_rc txb_pg_open_begin(const struct txb_pg_options *options, struct txb_pg **out, struct txb_error *err) {
  return open_with(options, false, out, err);
}

enum txb_rc txb_pg_open_step(struct txb_pg *pg, struct txb_error *err) {
  TXB_ASSERT(pg->connecting != 0);
  locale_t old, plain = speak_plainly(&old);
  enum txb_rc rc = step(pg, err);
  speak_as_before(plain, old);
  return rc;
}

enum txb_rc txb_pg_borrow(void *pgconn, struct txb_pg **out, struct txb_error *err) {
  PGconn *conn = pgconn;
  if (conn == NULL)
    return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "the connection is NULL");
  void *memory;
  TXB_TRY(txb_alloc(sizeof(struct txb_pg), &memory, err));
  struct txb_pg *pg = memory;
  pg->conn = conn;
  pg->borrowed = true;
  pg->stop_fd = -1;
  describe(PQhost(conn), PQport(conn), PQdb(conn), pg->name, sizeof pg->name);
  *out = pg;
  return TXB_OK;
}

enum txb_rc txb_pg_utf8_check(const struct txb_pg *pg, struct txb_error *err) {
  int encoding = PQclientEncoding(pg->conn);
  if (encoding < 0 ||
      encoding == pg_char_to_encoding("UTF8")) /* negative: the connection is lost, which the statement tells */
    return TXB_OK;
  /* SQL_ASCII: the server takes bytes as they are, and they are UTF-8 in a database that is, or that knows no encoding. */
  const char *server = PQparameterStatus(pg->conn, "server_encoding");
  if (encoding == pg_char_to_encoding("SQL_ASCII") && server != NULL &&
      (strcmp(server, "UTF8") == 0 || strcmp(server, "SQL_ASCII") == 0))
    return TXB_OK;
  return TXB_FAIL_FROM(
      err, TXB_REFUSED, TXB_ORIGIN_USAGE,
      "client_encoding of the connection is %s, and text is given as UTF-8, which the server would take "
      "for other letters: PQsetClientEncoding(conn, \"UTF8\") or SET client_encoding = 'UTF8'",
      pg_encoding_to_char(encoding));
}

void txb_pg_close(struct txb_pg *pg) {
  if (pg == NULL)
    return;
  if (!pg->borrowed)
    PQfinish(pg->conn);
  txb_free(pg->prepared);
  txb_free(pg->expected);
  txb_free(pg);
}

void txb_pg_watch_stop(struct txb_pg *pg, int stop_fd) {
  pg->stop_fd = stop_fd;
}

bool txb_pg_is_usable(const struct txb_pg *pg) {
  return !pg->broken && PQstatus(pg->conn) == CONNECTION_OK;
}

void *txb_pg_native(struct txb_pg *pg) {
  return pg->conn;
}

int txb_pg_socket(const struct txb_pg *pg) {
  return PQsocket(pg->conn);
}

int txb_pg_server_version(const struct txb_pg *pg) {
  return PQserverVersion(pg->conn);
}

const char *txb_pg_user(const struct txb_pg *pg) {
  return PQuser(pg->conn);
}

const char *txb_pg_name(const struct txb_pg *pg) {
  return pg->name;
}
