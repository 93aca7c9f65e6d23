/* A PostgreSQL server of our own. */
#include "broker/cli/private_postgres.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/loop.h"
#include "common/pg.h"
#include "common/random.h"

#define USER          "postgres" /* the superuser inside the server */
#define VERSION_MIN   14
#define PASSWORD_FILE ".txbroker-password" /* also beside files of the user's */
#define PASSWORD_SIZE 32
#define START_MS      60000
#define STOP_MS       15000
#define LOOK_US       (50 * 1000)

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

/* ---- where the programs are
 * -------------------------------------------------------------------------------------------------------------- */

static bool has_programs(const char *dir) {
  static const char *const programs[] = {"initdb", "postgres"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(programs); i++) {
    char path[300];
    int n = snprintf(path, sizeof(path), "%s/%s", dir, programs[i]);
    if (n < 0 || (size_t)n >= sizeof(path) || access(path, X_OK) != 0)
      return false;
  }
  return true;
}

static bool take_dir(struct txb_private_postgres *p, const char *dir, size_t size) {
  if (size == 0 || size >= sizeof(p->binaries))
    return false;
  char copy[sizeof(p->binaries)];
  memcpy(copy, dir, size);
  copy[size] = '\0';
  if (!has_programs(copy))
    return false;
  memcpy(p->binaries, copy, size + 1);
  return true;
}

static bool search_path(struct txb_private_postgres *p) {
  const char *path = getenv("PATH");
  for (; path != NULL && *path != '\0'; path += strcspn(path, ":"), path += *path == ':')
    if (take_dir(p, path, strcspn(path, ":")))
      return true;
  return false;
}

/* The number behind the last '/' or '-' before /bin: 15 in /usr/lib/postgresql/15/bin and /usr/pgsql-15/bin. */
static long version_in(const char *dir) {
  long version = 0;
  for (const char *c = dir; *c != '\0'; c++)
    if (*c >= '0' && *c <= '9') {
      char *end;
      version = strtol(c, &end, 10);
      c = end - 1;
    }
  return version;
}

static bool search_usual(struct txb_private_postgres *p) {
  static const char *const patterns[] = {"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
                                         "/usr/lib/postgresql*/bin"};
  glob_t found = {0};
  long best = 0;
  for (size_t i = 0; i < TXB_ARRAY_SIZE(patterns); i++)
    (void)glob(patterns[i], i == 0 ? 0 : GLOB_APPEND, NULL, &found);
  for (size_t i = 0; i < found.gl_pathc; i++) {
    long version = version_in(found.gl_pathv[i]);
    if ((version == 0 || version >= VERSION_MIN) && version >= best &&
        take_dir(p, found.gl_pathv[i], strlen(found.gl_pathv[i])))
      best = version;
  }
  globfree(&found);
  return p->binaries[0] != '\0';
}

/* ---- who it runs as -------------------------------------------------------------------------------------- */

static enum txb_rc choose_user(struct txb_private_postgres *p, struct txb_error *err) {
  if (geteuid() != 0)
    return TXB_OK;
  const struct passwd *user = getpwnam("postgres");
  if (user == NULL || user->pw_uid == 0)
    user = getpwnam("nobody");
  if (user == NULL || user->pw_uid == 0)
    return REFUSE(err, "PostgreSQL does not run as root, and there is neither a user postgres nor nobody: run this as "
                       "an ordinary user");
  p->uid = user->pw_uid;
  p->gid = user->pw_gid;
  return TXB_OK;
}

static enum txb_rc make_dir(const struct txb_private_postgres *p, const char *path, struct txb_error *err) {
  if (mkdir(path, 0700) != 0 && errno != EEXIST)
    return REFUSE(err, "can't make %s: %s", path, strerror(errno));
  if (p->uid != 0 && lchown(path, p->uid, p->gid) != 0)
    return REFUSE(err, "can't give %s to the server's user: %s", path, strerror(errno));
  return TXB_OK;
}

/* ---- data directory -------------------------------------------------------------------------------------- */

static bool is_password(const char *text, ssize_t size) {
  return size == PASSWORD_SIZE && (ssize_t)strspn(text, "0123456789abcdef") == size;
}

/* TXB_AGAIN: there is none yet. */
static enum txb_rc read_password(struct txb_private_postgres *p, const char *file, struct txb_error *err) {
  char text[PASSWORD_SIZE + 2] = ""; /* one more than it may have, and the end */
  int fd = open(file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0)
    return errno == ENOENT ? TXB_AGAIN : REFUSE(err, "can't read %s: %s", file, strerror(errno));
  ssize_t n = read(fd, text, sizeof(text) - 1);
  (void)close(fd);
  if (!is_password(text, n))
    return REFUSE(err, "%s is not a password that txbroker dev wrote: move it away", file);
  memcpy(p->password, text, PASSWORD_SIZE + 1);
  return TXB_OK;
}

/* Into another name first: a crash in the middle leaves no half a password. Nobody else writes here, we have the lock. */
static enum txb_rc write_password(struct txb_private_postgres *p, const char *file, struct txb_error *err) {
  char fresh[310];
  (void)snprintf(fresh, sizeof(fresh), "%s.new", file);
  (void)snprintf(p->password, sizeof(p->password), "%016" PRIx64 "%016" PRIx64, txb_random_u64(), txb_random_u64());
  (void)unlink(fresh);
  int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  bool written = fd >= 0 && write(fd, p->password, PASSWORD_SIZE) == PASSWORD_SIZE &&
                 (p->uid == 0 || fchown(fd, p->uid, p->gid) == 0);
  if (fd >= 0 && close(fd) != 0)
    written = false;
  return written && rename(fresh, file) == 0 ? TXB_OK : REFUSE(err, "can't write %s: %s", file, strerror(errno));
}

/* The password is the server's user's to read, once; in a kept directory it stays, so that addresses stay the same. */
static enum txb_rc settle_password(struct txb_private_postgres *p, const char *file, bool server_made,
                                   struct txb_error *err) {
  enum txb_rc rc = read_password(p, file, err);
  if (rc != TXB_AGAIN)
    return rc;
  if (server_made)
    return REFUSE(err, "%s is missing: the password of the server in %s", file, p->data);
  return write_password(p, file, err);
}

/* Nothing in it, or what an earlier dev made: its lock came first. */
static bool is_ours(const char *dir, const char *lock) {
  if (access(lock, F_OK) == 0)
    return true;
  DIR *opened = opendir(dir);
  bool empty = opened != NULL;
  for (const struct dirent *e = empty ? readdir(opened) : NULL; e != NULL; e = readdir(opened))
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
      empty = false;
  if (opened != NULL)
    (void)closedir(opened);
  return empty;
}

static enum txb_rc check_directory(const char *data, struct txb_error *err) {
  struct stat st;
  if (stat(data, &st) != 0)
    return REFUSE(err, "can't use %s: %s", data, strerror(errno));
  if (!S_ISDIR(st.st_mode))
    return REFUSE(err, "--data wants a directory: %s is none", data);
  if (access(data, R_OK | W_OK | X_OK) == 0)
    return TXB_OK;
  const struct passwd *owner = getpwuid(st.st_uid);
  if (st.st_uid != geteuid() && owner != NULL)
    return REFUSE(err, "%s belongs to user %s: run this as that user, or choose another directory", data,
                  owner->pw_name);
  return REFUSE(err, "can't use %s: %s", data, strerror(EACCES));
}

/* errno says why there is no lock. */
static enum txb_rc lock_data(struct txb_private_postgres *p, const char *data, const char *lock,
                             struct txb_error *err) {
  struct stat st;
  p->data_lock_fd = txb_lock_file(lock);
  if (p->data_lock_fd >= 0)
    return TXB_OK;
  int reason = errno;
  if (reason == EWOULDBLOCK)
    return REFUSE(err, "%s is in use by another txbroker", data);
  const struct passwd *owner = stat(lock, &st) == 0 && st.st_uid != geteuid() ? getpwuid(st.st_uid) : NULL;
  if (reason == EACCES && owner != NULL)
    return REFUSE(err, "what is in %s belongs to user %s: run this as that user, or choose another directory", data,
                  owner->pw_name);
  return REFUSE(err, "can't write to %s: %s", data, strerror(reason));
}

static enum txb_rc take_data_directory(struct txb_private_postgres *p, const char *data, char password_file[300],
                                       struct txb_error *err) {
  if (data == NULL) {
    (void)snprintf(p->data, sizeof(p->data), "%s/data", p->directory.path);
    (void)snprintf(password_file, 300, "%s/" PASSWORD_FILE, p->directory.path);
    return TXB_OK;
  }
  char lock[300];
  p->kept = true;
  if (*data == '\0')
    return REFUSE(err, "--data is empty: give a directory, or leave it out");
  p->data_made = mkdir(data, 0755) == 0;
  if (!p->data_made && errno != EEXIST)
    return REFUSE(err, "can't make %s: %s", data, strerror(errno));
  TXB_TRY(check_directory(data, err));
  char *real = realpath(data, NULL);
  int n = real == NULL ? -1 : snprintf(p->data, sizeof(p->data), "%s/postgresql", real);
  free(real);
  if (n < 0 || (size_t)n >= sizeof(p->data))
    return REFUSE(err, "can't use %s: its path is too long or can't be read", data);
  (void)snprintf(lock, sizeof(lock), "%.*s/lock", n - 11, p->data);
  (void)snprintf(password_file, 300, "%.*s/" PASSWORD_FILE, n - 11, p->data);
  if (!is_ours(data, lock))
    return REFUSE(err, "%s holds files that txbroker dev did not make: choose a new or an empty directory", data);
  TXB_TRY(lock_data(p, data, lock, err));
  return txb_end_server_of(p->data) ? TXB_OK : REFUSE(err, "a server still runs in %s and does not end", p->data);
}

/* Into another name first: a crash in the middle leaves nothing that looks like a data directory. */
static enum txb_rc make_data(const struct txb_private_postgres *p, const char *password_file, struct txb_error *err) {
  char program[300], file[320], fresh[300], output[300] = "";
  (void)snprintf(program, sizeof(program), "%s/initdb", p->binaries);
  (void)snprintf(file, sizeof(file), "--pwfile=%s", password_file);
  (void)snprintf(fresh, sizeof(fresh), "%s.new", p->data);
  const char *const argv[] = {program,
                              "-D",
                              fresh,
                              "-U",
                              USER,
                              "-E",
                              "UTF8",
                              "--no-locale",
                              "--auth-local=trust",
                              "--auth-host=scram-sha-256",
                              file,
                              "--no-instructions",
                              p->kept ? NULL : "--no-sync",
                              NULL};
  struct txb_child_options options = {.path = program, .argv = argv, .uid = p->uid, .gid = p->gid};
  txb_remove_tree(fresh);
  TXB_TRY(make_dir(p, fresh, err));
  if (txb_child_run(&options, output, sizeof(output), err) != TXB_OK)
    return strstr(output, "Permission denied") == NULL
               ? err->rc
               : REFUSE(
                     err,
                     "the server's user can't reach %s: choose a --data directory that every user may pass through to",
                     p->data);
  return rename(fresh, p->data) == 0 ? TXB_OK : REFUSE(err, "can't rename %s: %s", fresh, strerror(errno));
}

/* ---- the server ------------------------------------------------------------------------------------------ */

/* A port that was free a moment ago. */
static int free_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof(address);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool ok = fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
            getsockname(fd, (struct sockaddr *)&address, &size) == 0;
  if (fd >= 0)
    (void)close(fd);
  return ok ? ntohs(address.sin_port) : 0;
}

/* Asked before anything is made. By TIME_WAIT nobody holds a port, and the server sees it so too. */
static enum txb_rc check_port(int port, struct txb_error *err) {
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
  bool ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
            bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0;
  int reason = errno;
  if (fd >= 0)
    (void)close(fd);
  return ok ? TXB_OK
            : REFUSE(err, "port %d of 127.0.0.1 can't be used: %s; choose another with --port, or leave it out", port,
                     strerror(reason));
}

/* The line of the log that says why. An address that can't be bound is told in a line before the last. */
static void log_reason(const char *log, char *out, size_t out_size) {
  char text[4096] = "";
  int fd = open(log, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
  if (fd >= 0)
    (void)close(fd);
  text[n > 0 ? n : 0] = '\0';
  const char *reason = strstr(text, "could not bind");
  if (reason == NULL)
    reason = strstr(text, "FATAL:");
  if (reason == NULL)
    reason = strstr(text, "ERROR:");
  (void)snprintf(out, out_size, "%.*s", (int)strcspn(reason == NULL ? text : reason, "\n"),
                 reason == NULL ? text : reason);
}

static enum txb_rc start_server(struct txb_private_postgres *p, struct txb_error *err) {
  char program[300], port[16], sockets[120], listen[40], sync[24], log[300];
  (void)snprintf(program, sizeof(program), "%s/postgres", p->binaries);
  (void)snprintf(port, sizeof(port), "%d", p->port);
  (void)snprintf(sockets, sizeof(sockets), "unix_socket_directories=%s", p->sockets);
  (void)snprintf(listen, sizeof(listen), "listen_addresses=%s", p->tcp ? "127.0.0.1" : "");
  (void)snprintf(sync, sizeof(sync), "fsync=%s", p->kept ? "on" : "off");
  (void)snprintf(log, sizeof(log), "%s/log", p->directory.path);
  const char *const argv[] = {program,
                              "-D",
                              p->data,
                              "-p",
                              port,
                              "-c",
                              sockets,
                              "-c",
                              listen,
                              "-c",
                              sync,
                              "-c",
                              "max_connections=100",
                              "-c",
                              "max_prepared_transactions=10",
                              "-c",
                              "shared_buffers=64MB",
                              "-c",
                              "timezone=UTC",
                              "-c",
                              "logging_collector=off",
                              NULL};
  int log_fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (log_fd < 0)
    return REFUSE(err, "can't write %s: %s", log, strerror(errno));
  struct txb_child_options options = {
      .path = program, .argv = argv, .output_fd = log_fd, .uid = p->uid, .gid = p->gid, .death_signal = SIGINT};
  enum txb_rc rc = txb_child_start(&options, &p->server, err);
  (void)close(log_fd);
  return rc;
}

/* Asks until it answers, or has ended. */
static enum txb_rc wait_ready(struct txb_private_postgres *p, int stop_fd, struct txb_error *err) {
  char uri[300], log[300], reason[300];
  int64_t until = txb_clock_steady_us() + START_MS * 1000LL;
  txb_private_postgres_uri(p, "postgres", uri, sizeof(uri));
  struct txb_pg_options options = {.uri = uri, .application_name = "txbroker", .stop_fd = stop_fd};
  for (;;) {
    struct txb_pg *pg = NULL;
    enum txb_rc rc = txb_pg_open(&options, &pg, err);
    if (rc == TXB_OK) {
      int version = txb_pg_server_version(pg);
      (void)snprintf(p->version, sizeof(p->version), "%d.%d", version / 10000, version % 10000);
      txb_pg_close(pg);
      return TXB_OK;
    }
    if (txb_child_wait(&p->server, 0)) {
      (void)snprintf(log, sizeof(log), "%s/log", p->directory.path);
      log_reason(log, reason, sizeof(reason));
      return p->tcp ? REFUSE(err, "the private PostgreSQL server did not start on port %d: %s", p->port, reason)
                    : REFUSE(err, "the private PostgreSQL server did not start: %s", reason);
    }
    if (rc != TXB_RETRY || txb_clock_steady_us() > until || txb_pause(stop_fd, LOOK_US))
      return txb_error_prefix(err, "the private PostgreSQL server");
  }
}

/* A first start that failed leaves nothing behind in the user's directory: all that is there was made by it. */
static void undo_data(const struct txb_private_postgres *p, const char *password_file) {
  char path[310];
  size_t base = strlen(p->data) - strlen("/postgresql");
  (void)unlink(password_file);
  (void)snprintf(path, sizeof(path), "%s.new", p->data);
  txb_remove_tree(path);
  (void)snprintf(path, sizeof(path), "%.*s/lock", (int)base, p->data);
  (void)unlink(path);
  if (p->data_made) {
    (void)snprintf(path, sizeof(path), "%.*s", (int)base, p->data);
    (void)rmdir(path);
  }
}

static enum txb_rc open_all(const struct txb_private_postgres_options *options, struct txb_private_postgres *p,
                            struct txb_error *err) {
  char password_file[300], version_file[300];
  if (!search_path(p) && !search_usual(p))
    return REFUSE(err, "no PostgreSQL server is installed: `apt-get install postgresql` (its programs initdb and "
                       "postgres are looked for in PATH and "
                       "/usr/lib/postgresql/*/bin); or use a server of yours with --database URI");
  TXB_TRY(choose_user(p, err));
  if (options->port > 0)
    TXB_TRY(check_port(options->port, err));
  TXB_TRY(txb_private_directory_open(&p->directory, err));
  (void)snprintf(p->sockets, sizeof(p->sockets), "%s/s", p->directory.path);
  TXB_TRY(make_dir(p, p->sockets, err));
  TXB_TRY(take_data_directory(p, options->data, password_file, err));
  (void)snprintf(version_file, sizeof(version_file), "%s/PG_VERSION", p->data);
  bool made = access(version_file, F_OK) == 0;
  TXB_TRY(settle_password(p, password_file, made, err));
  if (!made && make_data(p, password_file, err) != TXB_OK) {
    if (p->kept)
      undo_data(p, password_file);
    return err->rc;
  }
  p->tcp = options->port >= 0;
  p->port = options->port > 0 ? options->port : p->tcp ? free_port() : 5432;
  TXB_TRY(start_server(p, err));
  return wait_ready(p, options->stop_fd, err);
}

enum txb_rc txb_private_postgres_open(const struct txb_private_postgres_options *options,
                                      struct txb_private_postgres *out, struct txb_error *err) {
  *out = (struct txb_private_postgres){.directory.lock_fd = -1, .data_lock_fd = -1, .server.pidfd = -1};
  return open_all(options, out, err);
}

void txb_private_postgres_close(struct txb_private_postgres *p) {
  txb_child_stop(&p->server, SIGINT, STOP_MS);
  txb_private_directory_close(&p->directory);
  if (p->data_lock_fd >= 0)
    (void)close(p->data_lock_fd);
  *p = (struct txb_private_postgres){.directory.lock_fd = -1, .data_lock_fd = -1, .server.pidfd = -1};
}

void txb_private_postgres_uri(const struct txb_private_postgres *p, const char *database, char *out, size_t out_size) {
  (void)snprintf(out, out_size, "postgresql:///%s?host=%s&port=%d&user=" USER, database, p->sockets, p->port);
}

void txb_private_postgres_tcp_uri(const struct txb_private_postgres *p, const char *database, char *out,
                                  size_t out_size) {
  (void)snprintf(out, out_size, "postgresql://" USER ":%s@127.0.0.1:%d/%s", p->password, p->port, database);
}
