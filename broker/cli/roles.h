/* Relays and workers as threads of this process: from settings to their options, started, watched, started again,
 * stopped. */
#ifndef TXB_BROKER_CLI_ROLES_H
#define TXB_BROKER_CLI_ROLES_H

#include <pthread.h>

#include "broker/cli/cli.h"
#include "common/backoff.h"
#include "consumer/worker.h"
#include "outbox/relay.h"

enum txb_role_kind { TXB_ROLE_RELAY, TXB_ROLE_WORKER };

struct txb_role {
  enum txb_role_kind kind;
  const char *name;    /* of the source or group; borrowed from the settings */
  char client_id[300]; /* what the options point to */
  char owner[256];
  union {
    struct txb_relay_options relay;
    struct txb_worker_settings worker;
  } options;
  pthread_t thread;
  bool running;
  int ended_fd;         /* eventfd: signalled by the thread at its end */
  int nudge_fd;         /* of a relay, eventfd: signalled by workers of its database; else -1 */
  enum txb_rc rc;       /* how it ended */
  struct txb_error err; /* why */
  int64_t started_us;   /* steady time */
  int64_t restart_us;   /* steady time at which it is started again; 0: it is not */
  uint32_t lives;
  struct txb_backoff backoff;
};

struct txb_roles {
  struct txb_role *items;
  size_t count;
  struct txb_worker_outbox *outboxes; /* all sources of the configuration, for the workers; NULL: not made yet */
  size_t outbox_count;
  int stop_fd; /* eventfd: all roles end when it is signalled */
};

enum txb_rc txb_roles_init(struct txb_roles *roles, size_t max, struct txb_error *err) TXB_MUST_CHECK;
/* Stops and joins what runs. */
void txb_roles_fini(struct txb_roles *roles);
/* Adds a role without starting it. There is room for `max`. */
enum txb_rc txb_roles_add_relay(struct txb_roles *roles, const struct txb_settings *s, const char *name,
                                const char *database, const char *event_source, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_roles_add_worker(struct txb_roles *roles, const struct txb_settings *s,
                                 const struct txb_group_settings *group, const char *database,
                                 struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_roles_start(struct txb_roles *roles, struct txb_error *err) TXB_MUST_CHECK;
/* Until a signal comes or a role ends that is not to be started again; then all are stopped and joined. restart: a
 * role that fails after a while is started again after a growing pause. A second signal ends the process at once.
 * *signal_out: the signal, or 0. TXB_OK when all ended well; else the first error. */
enum txb_rc txb_roles_watch(struct txb_roles *roles, int signal_fd, bool restart, int *signal_out,
                            struct txb_error *err) TXB_MUST_CHECK;

#endif
