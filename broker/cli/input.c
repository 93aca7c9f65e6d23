/* See input.h. */
#include "broker/cli/input.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static enum txb_rc read_all(int fd, const char *name, size_t size_max, struct txb_buffer *out, struct txb_error *err) {
  char block[16384];
  for (;;) {
    ssize_t got = read(fd, block, sizeof block);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return REFUSE(err, "can't read %s: %s", name, strerror(errno));
    if (got == 0)
      return txb_buffer_check(out, err);
    txb_buffer_add(out, block, (size_t)got);
    if (out->size > size_max)
      return REFUSE(err, "%s has more than the %zu bytes that are allowed", name, size_max);
  }
}

enum txb_rc txb_input_read(const char *path, size_t size_max, struct txb_buffer *out, struct txb_error *err) {
  if (strcmp(path, "-") == 0)
    return read_all(STDIN_FILENO, "standard input", size_max, out, err);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return REFUSE(err, "can't open %s: %s", path, strerror(errno));
  enum txb_rc rc = read_all(fd, path, size_max, out, err);
  (void)close(fd);
  return rc;
}
