/* The bank's handler as a plugin, for the tests: applies a transfer with the connection of its delivery, hiding no second application.
 *
 * Its argument makes it misbehave, for one message in five and at its first two attempts: "commit" and "rollback" end the transaction, "swallow"
 * answers ok after an error, "role" leaves a role and settings behind, "lock" keeps a session lock. "die" is a segmentation fault at the key "poison", "hang" never returns from it;
 * "session" leaves a role, settings and a LISTEN behind and notes what it found, "unread" leaves results unread;
 * "wait" waits in every call for the lock 7, "stall" in every third, "slow" takes its time.
 */
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "txbroker/consumer.h"

static const struct {
  const char *argument, *sql;
} misdeeds[] = {
    {"commit", "COMMIT"},
    {"rollback", "ROLLBACK"},
    {"swallow", "SELECT 1 / 0"},
    {"role", "SET ROLE txb_worker; SET search_path = nowhere; SET statement_timeout = '1ms'; SET datestyle = 'German'"},
    {"lock", "SELECT pg_advisory_lock(1)"}};

static char deed[16]; /* the argument; "" means well-behaved */

static int open_plugin(const char *argument, void **context) {
  *context = NULL;
  snprintf(deed, sizeof deed, "%s", argument == NULL ? "" : argument);
  return 0;
}

static void misbehave(PGconn *conn, const struct txb_message *message) {
  bool poison = message->key.size == 6 && memcmp(message->key.data, "poison", 6) == 0;
  if (poison && strcmp(deed, "die") == 0)
    *(volatile int *)8 = 0; /* a segmentation fault */
  while (poison && strcmp(deed, "hang") == 0)
    pause();
  if (strcmp(deed, "session") == 0) { /* what the last one left is written down, before the same is left again */
    PQclear(PQexec(conn, "INSERT INTO bank.seen SELECT current_setting('role'), current_setting('datestyle'),"
                         " EXISTS (SELECT FROM pg_listening_channels())"));
    PQclear(PQexec(conn, "LISTEN anything; SET datestyle = 'German'; SET ROLE txb_worker"));
  }
  if (strcmp(deed, "unread") == 0)
    (void)PQsendQuery(conn, "SELECT generate_series(1, 3)");
  if (strcmp(deed, "wait") == 0 || (strcmp(deed, "stall") == 0 && message->offset % 3 == 2))
    PQclear(PQexec(conn, "SELECT pg_advisory_xact_lock(7)"));
  if (strcmp(deed, "slow") == 0)
    PQclear(PQexec(conn, "SELECT pg_sleep(0.3)"));
  if (message->offset % 5 != 2 || message->attempt >= 3)
    return;
  for (size_t i = 0; i < sizeof misdeeds / sizeof *misdeeds; i++)
    if (strcmp(deed, misdeeds[i].argument) == 0)
      PQclear(PQexec(conn, misdeeds[i].sql));
}

static enum txb_outcome apply(PGconn *conn, const struct txb_message *message, struct txb_answer *answer,
                              void *context) {
  (void)context;
  char partition[16], offset[24];
  snprintf(partition, sizeof partition, "%d", (int)message->partition);
  snprintf(offset, sizeof offset, "%lld", (long long)message->offset);
  const char *values[] = {message->id, message->key.data, message->payload.data, message->topic, partition, offset};
  const int sizes[] = {0, (int)message->key.size, (int)message->payload.size, 0, 0, 0};
  const int formats[] = {0, 1, 1, 0, 0, 0};
  static const char sql[] =
      "WITH body AS (SELECT convert_from($3::bytea, 'UTF8')::jsonb AS b),"
      " done AS (INSERT INTO bank.applied (id, key, n, account, amount, topic, partition, \"offset\")"
      "   SELECT $1::uuid, convert_from($2::bytea, 'UTF8'), (b->>'n')::bigint, (b->>'to')::int, "
      "(b->>'amount')::bigint, $4, $5::int, $6::bigint FROM body)"
      " UPDATE bank.credit SET balance = balance + (b->>'amount')::bigint FROM body WHERE account = (b->>'to')::int";
  PGresult *result = PQexecParams(conn, sql, 6, NULL, values, sizes, formats, 0);
  enum txb_outcome outcome = TXB_OUTCOME_OK;
  if (PQresultStatus(result) != PGRES_COMMAND_OK) {
    snprintf(answer->reason, sizeof answer->reason, "%s", PQresultErrorMessage(result));
    outcome = TXB_OUTCOME_RETRY;
  }
  PQclear(result);
  misbehave(conn, message);
  return outcome;
}

const struct txb_plugin txb_plugin = {
    .struct_size = sizeof txb_plugin, .abi = TXB_PLUGIN_ABI, .name = "bank", .open = open_plugin, .handle = apply};
