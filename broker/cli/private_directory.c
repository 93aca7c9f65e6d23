/* A private directory. See the header for what a crash leaves and who cleans it. */
#include "broker/cli/private_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/loop.h"

#define BASE        "/tmp" /* not TMPDIR: the path must stay short */
#define PREFIX      "txbroker."
#define PATIENCE_US (10 * 1000 * 1000LL)
#define LOOK_US     (20 * 1000)

static void remove_at(int dir_fd, const char *name) {
  if (unlinkat(dir_fd, name, 0) == 0 || (errno != EISDIR && errno != EPERM))
    return;
  int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  if (dir == NULL) {
    if (fd >= 0)
      (void)close(fd);
    return;
  }
  for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
    if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
      remove_at(fd, e->d_name);
  (void)closedir(dir);
  (void)unlinkat(dir_fd, name, AT_REMOVEDIR);
}

void txb_remove_tree(const char *path) {
  remove_at(AT_FDCWD, path);
}

int txb_lock_file(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0)
    return -1;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0)
    return fd;
  int reason = errno;
  (void)close(fd);
  errno = reason;
  return -1;
}

/* The process of data/postmaster.pid, if its second line names this directory and the process works in it; 0
 * otherwise. */
static pid_t server_of(const char *data) {
  char path[300], text[600] = "", cwd[300];
  (void)snprintf(path, sizeof(path), "%s/postmaster.pid", data);
  int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
  if (fd >= 0)
    (void)close(fd);
  if (n <= 0)
    return 0;
  long pid = strtol(text, NULL, 10);
  if (pid <= 1)
    return 0;
  (void)snprintf(path, sizeof(path), "/proc/%ld/cwd", pid);
  ssize_t size = readlink(path, cwd, sizeof(cwd) - 1);
  char *real = size <= 0 ? NULL : realpath(data, NULL);
  if (real == NULL)
    return 0;
  cwd[size] = '\0';
  const char *second = strchr(text, '\n');
  bool ours = strcmp(real, cwd) == 0 && second != NULL && strstr(second, real) != NULL;
  free(real);
  return ours ? (pid_t)pid : 0;
}

bool txb_end_server_of(const char *data) {
  pid_t pid = server_of(data);
  int64_t until = txb_clock_steady_us() + PATIENCE_US;
  if (pid > 0)
    (void)kill(pid, SIGINT); /* fast shutdown */
  while (pid > 0 && server_of(data) == pid && txb_clock_steady_us() < until)
    (void)txb_pause(-1, LOOK_US);
  pid = server_of(data);
  if (pid > 0)
    (void)kill(pid, SIGQUIT); /* immediate */
  while (pid > 0 && server_of(data) == pid && txb_clock_steady_us() < until + PATIENCE_US)
    (void)txb_pause(-1, LOOK_US);
  return server_of(data) == 0;
}

/* One directory that may be a dead owner's. Only what belongs to us counts: the name alone proves nothing in a
 * directory that everybody can write to. */
static void clean_one(const char *name) {
  char path[300], inside[340];
  struct stat st;
  (void)snprintf(path, sizeof(path), "%s/%s", BASE, name);
  if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022) != 0)
    return;
  (void)snprintf(inside, sizeof(inside), "%s/lock", path);
  if (access(inside, F_OK) != 0)
    return; /* being made or being removed */
  int fd = txb_lock_file(inside);
  if (fd < 0)
    return;
  (void)snprintf(inside, sizeof(inside), "%s/data", path);
  if (txb_end_server_of(inside))
    txb_remove_tree(path);
  (void)close(fd);
}

static void clean_all(void) {
  DIR *dir = opendir(BASE);
  if (dir == NULL)
    return;
  for (const struct dirent *e = readdir(dir); e != NULL; e = readdir(dir))
    if (strncmp(e->d_name, PREFIX, strlen(PREFIX)) == 0)
      clean_one(e->d_name);
  (void)closedir(dir);
}

enum txb_rc txb_private_directory_open(struct txb_private_directory *d, struct txb_error *err) {
  char lock[sizeof(d->path) + 8];
  clean_all();
  d->lock_fd = -1;
  (void)snprintf(d->path, sizeof(d->path), "%s/%sXXXXXX", BASE, PREFIX);
  if (mkdtemp(d->path) == NULL || chmod(d->path, 0711) != 0) /* others pass through, to what is theirs inside */
    return TXB_FAIL(err, TXB_REFUSED, "can't make a directory in %s: %s", BASE, strerror(errno));
  (void)snprintf(lock, sizeof(lock), "%s/lock", d->path);
  d->lock_fd = txb_lock_file(lock);
  return d->lock_fd >= 0 ? TXB_OK : TXB_FAIL(err, TXB_REFUSED, "can't lock %s: %s", lock, strerror(errno));
}

void txb_private_directory_close(struct txb_private_directory *d) {
  if (d->path[0] != '\0')
    txb_remove_tree(d->path);
  if (d->lock_fd >= 0)
    (void)close(d->lock_fd);
  *d = (struct txb_private_directory){.lock_fd = -1};
}
