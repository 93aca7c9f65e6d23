/* The port to libpq as far as it needs no server: connection strings that leak nothing, refused connections, codes. */
#include <criterion/criterion.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/loop.h"
#include "common/pg_internal.h"

/* Nothing listens on port 1 of this machine. */
#define NOBODY "postgresql://app:geheim@127.0.0.1:1/bank"

static enum txb_rc open_uri(const char *uri, struct txb_error *err) {
  struct txb_pg_options options = {.uri = uri,
                                   .application_name = "test",
                                   .connect_timeout_ms = 2000,
                                   .stop_fd = -1,
                                   .settings = "-c work_mem=1MB",
                                   .tcp_user_timeout_ms = 1000};
  struct txb_pg *pg = NULL;
  enum txb_rc rc = txb_pg_open(&options, &pg, err);
  cr_assert(rc != TXB_OK && pg == NULL);
  return rc;
}

Test(pg, says_that_a_server_is_away_without_its_password) {
  struct txb_error err;
  cr_assert(open_uri(NOBODY, &err) == TXB_RETRY && err.origin == TXB_ORIGIN_POSTGRES, "%s", err.message);
  cr_assert(strstr(err.message, "geheim") == NULL && strstr(err.message, "127.0.0.1:1/bank") != NULL, "%s",
            err.message);
}

Test(pg, refuses_malformed_connection_strings_and_never_shows_what_is_in_them) {
  static const char *const uris[] = {
      "postgresql://app:geh@geheim@127.0.0.1:1/bank",
      "postgresql://app:1/geheim@127.0.0.1/bank",
      "postgresql://app:geheim%zz@127.0.0.1:1/bank",
      "postgresql://app:geheim%00@127.0.0.1:1/bank",
      "postgresql://app@127.0.0.1:1/bank?password=a&geheim",
      "postgresql://app@127.0.0.1:1/bank?geheim=1",
      "postgresql://app:geheim@[::1:1/bank",
      "host=127.0.0.1 password=a geheim",
      "host=127.0.0.1 geheim=1",
      "host=127.0.0.1 password='geheim",
      "geheim",
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(uris); i++) {
    struct txb_error err;
    char text[200];
    cr_assert(open_uri(uris[i], &err) == TXB_REFUSED, "%s: %s", uris[i], err.message);
    cr_assert(err.origin == TXB_ORIGIN_USAGE && strstr(err.message, "geheim") == NULL, "%s: %s", uris[i], err.message);
    txb_pg_describe_uri(uris[i], text, sizeof text);
    cr_assert_str_eq(text, "(malformed connection string)");
  }
}

Test(pg, says_where_a_connection_string_is_malformed) {
  static const struct {
    const char *uri, *text;
  } rows[] = {
      {"host=h password=a geheim", "what follows the value of password is no keyword=value;"},
      {"host=h password=a geheim=1", "libpq knows no keyword like number 3;"},
      {"host=h password='a\\' geheim", "the quote that begins the value of password is not closed;"},
      {"geheim", "it begins with no keyword=value;"},
      {"postgresql://app:geheim@h/bank?x=1", "as %40, %3A, %2F and %25"},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    struct txb_error err;
    cr_assert(open_uri(rows[i].uri, &err) == TXB_REFUSED && strstr(err.message, rows[i].text) != NULL, "%s: %s",
              rows[i].uri, err.message);
  }
}

/* ---- an application that speaks another language ---- */

/* libpq's catalogue of messages with these, sorted as gettext wants them, in a language of the test's own. */
static const struct {
  const char *text, *translated;
} catalogue[] = {
    {"", "Content-Type: text/plain; charset=UTF-8\n"},
    {"invalid %s value: \"%s\"\n", "ung\u00fcltiger %s-Wert: \u00bb%s\u00ab\n"},
    {"missing \"=\" after \"%s\" in connection info string\n", "fehlendes \u00bb=\u00ab nach \u00bb%s\u00ab\n"},
    {"unterminated quoted string in connection info string\n", "fehlendes Anf\u00fchrungszeichen\n"},
};
#define TEXTS (uint32_t) TXB_ARRAY_SIZE(catalogue)

static void put_table(FILE *file, bool translated, uint32_t at) {
  for (uint32_t i = 0; i < TEXTS; i++) {
    uint32_t entry[2] = {(uint32_t)strlen(translated ? catalogue[i].translated : catalogue[i].text), at};
    cr_assert(fwrite(entry, sizeof entry, 1, file) == 1);
    at += entry[0] + 1;
  }
}

static uint32_t texts_size(void) {
  size_t size = 0;
  for (uint32_t i = 0; i < TEXTS; i++)
    size += strlen(catalogue[i].text) + 1;
  return (uint32_t)size;
}

static char folder[] = "/tmp/txb-XXXXXX", path[100];

/* From here on libpq answers in it. */
static void speak_german(void) {
  const uint32_t first = 28 + 16 * TEXTS;
  const uint32_t head[] = {0x950412de, 0, TEXTS, 28, 28 + 8 * TEXTS, 0, first};
  cr_assert(mkdtemp(folder) != NULL);
  snprintf(path, sizeof path, "%s/de", folder);
  cr_assert(mkdir(path, 0700) == 0);
  snprintf(path, sizeof path, "%s/de/LC_MESSAGES", folder);
  cr_assert(mkdir(path, 0700) == 0);
  snprintf(path, sizeof path, "%s/de/LC_MESSAGES/libpq5-%d.mo", folder, PQlibVersion() / 10000);
  FILE *file = fopen(path, "wb");
  cr_assert(file != NULL && fwrite(head, sizeof head, 1, file) == 1);
  put_table(file, false, first);
  put_table(file, true, first + texts_size());
  for (int translated = 0; translated <= 1; translated++)
    for (uint32_t i = 0; i < TEXTS; i++) {
      const char *text = translated ? catalogue[i].translated : catalogue[i].text;
      cr_assert(fwrite(text, strlen(text) + 1, 1, file) == 1);
    }
  cr_assert(fclose(file) == 0 && setenv("PGLOCALEDIR", folder, 1) == 0 && setenv("LANGUAGE", "de", 1) == 0);
  cr_assert(setlocale(LC_ALL, "C.UTF-8") != NULL);
}

/* Last of a test: it is read by now. */
static void check_that_it_is_german(void) {
  PGconn *conn = PQconnectStart("host=127.0.0.1 port=1 sslmode=perhaps");
  cr_assert(strstr(PQerrorMessage(conn), "-Wert") != NULL, "%s", PQerrorMessage(conn));
  PQfinish(conn);
  cr_assert(remove(path) == 0);
  for (int i = 0; i < 3; i++) { /* LC_MESSAGES, de, the folder */
    *strrchr(path, '/') = '\0';
    cr_assert(remove(path) == 0);
  }
}

Test(pg, never_shows_a_piece_of_a_password_in_any_language) {
  static const char *const uris[] = {
      "host=127.0.0.1 password=a geheim",
      "host=127.0.0.1 password=geheim'a geheim",
      "host=127.0.0.1 password='geheim",
  };
  speak_german();
  for (size_t i = 0; i < TXB_ARRAY_SIZE(uris); i++) {
    struct txb_error err;
    cr_assert(open_uri(uris[i], &err) == TXB_REFUSED && err.origin == TXB_ORIGIN_USAGE, "%s", err.message);
    cr_assert(strstr(err.message, "geheim") == NULL, "%s", err.message);
  }
  check_that_it_is_german();
}

Test(pg, refuses_wrong_settings_in_any_language_and_leaves_the_language_as_it_was) {
  struct txb_error err;
  speak_german();
  cr_assert(open_uri("host=127.0.0.1 port=1 sslmode=perhaps", &err) == TXB_REFUSED, "%s", err.message);
  cr_assert(err.origin == TXB_ORIGIN_USAGE && strstr(err.message, "invalid sslmode value") != NULL, "%s", err.message);
  check_that_it_is_german();
}

Test(pg, refuses_settings_that_libpq_does_not_know) {
  struct txb_error err;
  cr_assert(open_uri("host=127.0.0.1 port=1 sslmode=perhaps", &err) == TXB_REFUSED, "%s", err.message);
  cr_assert(open_uri("host=127.0.0.1 port=one", &err) == TXB_REFUSED, "%s", err.message);
}

Test(pg, describes_a_connection_string_without_secrets) {
  static const struct {
    const char *uri, *text;
  } rows[] = {
      {"postgresql://app:geheim@db.example:5433/bank?sslmode=require", "db.example:5433/bank"},
      {"postgresql://app:ge%40heim@db/bank", "db:5432/bank"},
      {"host=a,b port=1,2 dbname=bank password=geheim", "a,b:1,2/bank"},
      {"hostaddr=10.0.0.1 dbname=bank", "10.0.0.1:5432/bank"},
      {"postgresql:///bank?host=/run/postgresql", "/run/postgresql:5432/bank"},
      {"service=bank", "service bank"},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    char text[200], tiny[8];
    txb_pg_describe_uri(rows[i].uri, text, sizeof text);
    cr_assert_str_eq(text, rows[i].text);
    txb_pg_describe_uri(rows[i].uri, tiny, sizeof tiny);
    cr_assert(strlen(tiny) == 7);
  }
}

/* What libpq takes from the environment is where it connects to. */
Test(pg, describes_what_the_environment_says) {
  static const struct {
    const char *uri, *text;
  } rows[] = {
      {"", "db.example:54329/shop"},
      {"host=h", "h:54329/shop"},
      {"hostaddr=10.0.0.1 port=7 dbname=bank", "10.0.0.1:7/bank"},
      {"postgresql:///bank", "db.example:54329/bank"},
  };
  char text[200];
  setenv("PGHOST", "db.example", 1);
  setenv("PGPORT", "54329", 1);
  setenv("PGDATABASE", "shop", 1);
  setenv("PGUSER", "app", 1);
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    txb_pg_describe_uri(rows[i].uri, text, sizeof text);
    cr_assert_str_eq(text, rows[i].text);
  }
  unsetenv("PGDATABASE"); /* then the database is named as the user is */
  txb_pg_describe_uri("host=h", text, sizeof text);
  cr_assert_str_eq(text, "h:54329/app");
  txb_pg_describe_uri("host=h user=u", text, sizeof text);
  cr_assert_str_eq(text, "h:54329/u");
}

Test(pg, does_not_connect_once_stopped) {
  struct txb_pg_options options = {.uri = "host=127.0.0.1 port=1", .connect_timeout_ms = 60000};
  struct txb_pg *pg = NULL;
  struct txb_error err;
  cr_assert(txb_wake_open(&options.stop_fd, NULL) == TXB_OK);
  txb_wake_signal(options.stop_fd);
  enum txb_rc rc = txb_pg_open(&options, &pg, &err);
  cr_assert(rc == TXB_RETRY && pg == NULL, "%s", err.message);
  close(options.stop_fd);
}

Test(pg, fails_cleanly_at_every_allocation) {
  uint64_t failures = 0;
  for (uint64_t nth = 1; nth < 50; nth++) {
    struct txb_error err;
    txb_alloc_fail_at(nth);
    enum txb_rc rc = open_uri(NOBODY, &err);
    txb_alloc_fail_at(0);
    if (rc == TXB_RETRY)
      break;
    cr_assert(rc == TXB_FATAL && err.rc == TXB_FATAL);
    failures++;
  }
  cr_assert(failures >= 2);
}

Test(pg, reports_a_borrowed_connection_that_is_dead) {
  static const struct txb_pg_statement one = {"one", "SELECT 1"};
  struct txb_pg *pg = NULL;
  struct txb_error err;
  cr_assert(txb_pg_borrow(NULL, &pg, &err) == TXB_REFUSED);
  PGconn *conn = PQconnectStart("host=127.0.0.1 port=one password=geheim");
  cr_assert(txb_pg_borrow(conn, &pg, &err) == TXB_OK);
  cr_assert(!txb_pg_is_usable(pg) && txb_pg_native(pg) == conn);
  cr_assert(txb_pg_query(pg, &one, NULL, NULL, &err) == TXB_RETRY && err.origin == TXB_ORIGIN_POSTGRES);
  cr_assert(txb_pg_script(pg, "SELECT 1", &err) == TXB_RETRY);
  txb_pg_close(pg);
  PQfinish(conn);
}

Test(pg, maps_sqlstates_to_what_the_caller_must_do) {
  static const struct {
    const char *sqlstate;
    enum txb_rc rc;
    enum txb_origin origin;
  } rows[] = {
      {"08006", TXB_RETRY, TXB_ORIGIN_POSTGRES}, {"57P01", TXB_RETRY, TXB_ORIGIN_POSTGRES},
      {"57P03", TXB_RETRY, TXB_ORIGIN_POSTGRES}, {"53300", TXB_RETRY, TXB_ORIGIN_POSTGRES},
      {"25006", TXB_RETRY, TXB_ORIGIN_POSTGRES}, {"25P03", TXB_RETRY, TXB_ORIGIN_POSTGRES},
      {"40001", TXB_RETRY, TXB_ORIGIN_NONE},     {"40P01", TXB_RETRY, TXB_ORIGIN_NONE},
      {"55P03", TXB_RETRY, TXB_ORIGIN_NONE},     {"57014", TXB_RETRY, TXB_ORIGIN_NONE},
      {"TXB01", TXB_FENCED, TXB_ORIGIN_SAFETY},  {"TXB02", TXB_POISON, TXB_ORIGIN_NONE},
      {"TXB03", TXB_REFUSED, TXB_ORIGIN_SAFETY}, {"TXB04", TXB_REFUSED, TXB_ORIGIN_SAFETY},
      {"28P01", TXB_REFUSED, TXB_ORIGIN_SAFETY}, {"42501", TXB_REFUSED, TXB_ORIGIN_SAFETY},
      {"3D000", TXB_REFUSED, TXB_ORIGIN_USAGE},  {"42601", TXB_REFUSED, TXB_ORIGIN_NONE},
      {"23505", TXB_REFUSED, TXB_ORIGIN_NONE},   {"P0001", TXB_REFUSED, TXB_ORIGIN_NONE},
      {"25P02", TXB_REFUSED, TXB_ORIGIN_NONE},   {"22023", TXB_REFUSED, TXB_ORIGIN_NONE},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    enum txb_origin origin = TXB_ORIGIN_KAFKA;
    cr_assert(txb_pg_rc_of_sqlstate(rows[i].sqlstate, &origin) == rows[i].rc, "%s", rows[i].sqlstate);
    cr_assert(origin == rows[i].origin, "%s", rows[i].sqlstate);
  }
}

Test(pg, reads_the_code_out_of_a_failed_connection_s_text) {
  static const struct {
    const char *text, *sqlstate, *message;
    enum txb_rc rc;
  } rows[] = {
      {"connection to server failed: FATAL:  28P01: password authentication failed for user \"app\"\nLOCATION:  "
       "auth_failed, auth.c:335\n",
       "28P01",
       "cannot connect to db: connection to server failed: FATAL: password authentication failed for user \"app\"",
       TXB_REFUSED},
      {"connection to server failed: FATAL:  57P03: the database system is starting up\nLOCATION:  x, y.c:1\n", "57P03",
       "cannot connect to db: connection to server failed: FATAL: the database system is starting up", TXB_RETRY},
      {"a failed: FATAL:  57P03: starting\nLOCATION:  x, y.c:1\nb failed: FATAL:  3D000: no such\nLOCATION:  x, "
       "y.c:1\n",
       "3D000", "cannot connect to db: a failed: FATAL: 57P03: starting; b failed: FATAL: no such", TXB_REFUSED},
      {"could not translate host name \"x\" to address: Name or service not known\n", "",
       "cannot connect to db: could not translate host name \"x\" to address: Name or service not known", TXB_RETRY},
      {"server does not support SSL, but SSL was required\n", "",
       "cannot connect to db: server does not support SSL, but SSL was required", TXB_REFUSED},
  };
  for (size_t i = 0; i < TXB_ARRAY_SIZE(rows); i++) {
    struct txb_error err;
    cr_assert(txb_pg_fail_connect("db", rows[i].text, &err) == rows[i].rc, "row %zu", i);
    cr_assert_str_eq(err.sqlstate, rows[i].sqlstate);
    cr_assert_str_eq(err.message, rows[i].message);
  }
}

/* Wherever the text is cut (the address sanitizer looks on), and though the port looks like the code. */
Test(pg, reads_the_code_out_of_a_text_of_any_length) {
  for (int hosts = 300; hosts < 420; hosts++) {
    char text[600];
    struct txb_error err;
    snprintf(text, sizeof text, "port 53300 of %.*s failed: FATAL:  53300: too many\n", hosts,
             "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
             "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
             "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
             "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
             "aaaaaaaaaaaaaaaaaaaaaaaa");
    (void)txb_pg_fail_connect("db", text, &err);
    cr_assert_str_eq(err.sqlstate, "53300");
    cr_assert(strncmp(err.message, "cannot connect to db: port 53300 of a", 37) == 0, "%s", err.message);
  }
}
