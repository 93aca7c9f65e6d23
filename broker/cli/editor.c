/* Letting a person edit bytes in $VISUAL or $EDITOR. The file is private; a crash leaves it in the temporary directory,
 * and nothing else. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/cli/failed.h"
#include "common/event.h"
#include "common/memory.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

static const char *editor_of_environment(void) {
  const char *names[] = {"VISUAL", "EDITOR"};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(names); i++) {
    const char *editor = getenv(names[i]);
    if (editor != NULL && *editor != '\0')
      return editor;
  }
  return NULL;
}

static bool write_all(int fd, struct txb_slice bytes) {
  const char *data = bytes.data;
  for (size_t at = 0; at < bytes.size;) {
    ssize_t n = write(fd, data + at, bytes.size - at);
    if (n < 0 && errno != EINTR)
      return false;
    at += n < 0 ? 0 : (size_t)n;
  }
  return true;
}

/* Only its owner can read it, from its first moment on. */
static enum txb_rc make_file(struct txb_slice before, bool json, char **path_out, struct txb_error *err) {
  const char *directory = getenv("TMPDIR");
  struct txb_buffer path;
  txb_buffer_init(&path);
  txb_buffer_addf(&path, "%s/txbroker-message-XXXXXX%s", directory == NULL || *directory == '\0' ? P_tmpdir : directory,
                  json ? ".json" : ".txt");
  char *name = NULL;
  enum txb_rc rc = txb_buffer_check(&path, err);
  if (rc == TXB_OK)
    rc = txb_strdup(txb_buffer_text(&path), &name, err);
  txb_buffer_fini(&path);
  TXB_TRY(rc);
  int fd = mkstemps(name, json ? 5 : 4);
  if (fd < 0)
    rc = REFUSE(err, "can't make a temporary file %s: %s", name, strerror(errno));
  else if (!write_all(fd, before))
    rc = REFUSE(err, "can't write %s: %s", name, strerror(errno));
  if (fd >= 0)
    (void)close(fd);
  if (rc == TXB_OK) {
    *path_out = name;
    return TXB_OK;
  }
  if (fd >= 0)
    (void)unlink(name);
  txb_free(name);
  return rc;
}

/* An editor may be a command line ("code --wait"): the shell reads it, and gets the file as an argument of its own. */
static enum txb_rc run_editor(const char *editor, const char *path, struct txb_error *err) {
  static const char script[] = "eval \"$0\" '\"$1\"'";
  pid_t pid = fork();
  if (pid < 0)
    return REFUSE(err, "can't start %s: %s", editor, strerror(errno));
  if (pid == 0) {
    (void)execl("/bin/sh", "sh", "-c", script, editor, path, (char *)NULL);
    _exit(127);
  }
  /* Ctrl-C is the editor's, as for every program that runs one. */
  struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
  (void)sigaction(SIGINT, &ignore, &before);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    continue;
  (void)sigaction(SIGINT, &before, NULL);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
    return TXB_OK;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    return REFUSE(err, "there is no editor %s: set EDITOR, or give --payload-file; nothing was changed", editor);
  return TXB_FAIL(err, TXB_REFUSED, "the editor %s failed; nothing was changed", editor);
}

/* One byte more than a payload may have: the server then tells the limit. */
static enum txb_rc read_back(const char *path, struct txb_buffer *out, struct txb_error *err) {
  FILE *file = fopen(path, "re");
  if (file == NULL)
    return REFUSE(err, "can't read %s: %s", path, strerror(errno));
  char chunk[65536];
  size_t n;
  while (out->size <= TXB_PAYLOAD_SIZE_MAX && (n = fread(chunk, 1, sizeof(chunk), file)) > 0)
    txb_buffer_add(out, chunk, n);
  bool bad = ferror(file) != 0;
  (void)fclose(file);
  return bad ? REFUSE(err, "can't read %s", path) : txb_buffer_check(out, err);
}

enum txb_rc txb_editor_run(struct txb_slice before, bool json, struct txb_buffer *after, char **path_out,
                           struct txb_error *err) {
  const char *editor = editor_of_environment();
  char *path = NULL;
  if (editor == NULL)
    return REFUSE(err, "no editor: set EDITOR, or give --payload-file FILE or --set-header NAME=VALUE");
  TXB_TRY(make_file(before, json, &path, err));
  enum txb_rc rc = run_editor(editor, path, err);
  if (rc == TXB_OK)
    rc = read_back(path, after, err);
  if (rc != TXB_OK) {
    (void)unlink(path);
    txb_free(path);
    return rc;
  }
  /* The newline that editors put at the end is not meant where there was none. */
  const char *bytes = before.data;
  bool had = before.size > 0 && bytes[before.size - 1] == '\n';
  if (!had && after->size > 0 && after->data[after->size - 1] == '\n')
    after->size--;
  *path_out = path;
  return TXB_OK;
}
