/* A private directory of this process: found and removed by the next start when this one was killed.
 *
 * The directory belongs to us and nobody else may write to it; its file `lock` is held by flock(2) as long as we
 * live. A next start that gets the lock knows that the owner is dead, ends the PostgreSQL server whose own pid file
 * and working directory lie inside, and removes everything.
 */
#ifndef TXB_BROKER_CLI_PRIVATE_DIRECTORY_H
#define TXB_BROKER_CLI_PRIVATE_DIRECTORY_H

#include "common/error.h"

struct txb_private_directory {
  char path[64]; /* short: sockets live in it, and their paths are limited to 107 bytes */
  int lock_fd;
};

/* Removes what dead owners left, then makes a new one. */
enum txb_rc txb_private_directory_open(struct txb_private_directory *d, struct txb_error *err) TXB_MUST_CHECK;
/* Removes it with all that is in it. */
void txb_private_directory_close(struct txb_private_directory *d);

/* Removes a tree without following links. */
void txb_remove_tree(const char *path);
/* Ends the server that runs on a data directory, if the pid file there names a process that really works in it. True
 * when none runs afterwards. */
bool txb_end_server_of(const char *data);
/* Opens or makes a lock file and takes its lock; -1 with errno when that failed (EWOULDBLOCK: another process has it). Close the descriptor to let go. */
int txb_lock_file(const char *path);

#endif
