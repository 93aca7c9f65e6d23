/* The booking's participant as a plugin: what booking.handle of booking.sql does, in C, with the same tables.
 *
 * A crash at any line leaves nothing half-done: all of it happens in the transaction of the delivery, which the worker
 * began and will end, behind the barrier that knows what was done before.
 */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <txbroker/consumer.h>

/* Of one group: several groups of a process may use one plugin, each in its own thread. */
struct booking {
  char output[64]; /* the last answer's: it must stay until the next call */
};

/* $1 is the command's payload, $2 its headers. A row of two columns: the delivery's number, NULL if it is not there, and
 * its slot. */
static const char sql_book[] =
    "WITH command AS (SELECT convert_from($1::bytea, 'UTF8')::jsonb AS input, $2::jsonb AS headers),"
    " taken AS (UPDATE booking.slot AS s SET places = s.places - 1 FROM command AS c"
    "  WHERE s.name = c.input ->> 'slot' AND s.places > 0 RETURNING s.name),"
    " made AS (INSERT INTO booking.delivery (saga, slot, address)"
    "  SELECT (c.headers ->> 'txb-saga')::uuid, t.name, c.input ->> 'address' FROM command AS c, taken AS t"
    "  RETURNING number)"
    " SELECT (SELECT m.number FROM made AS m), c.input ->> 'slot' FROM command AS c";
static const char sql_cancel[] =
    "WITH command AS (SELECT ($2::jsonb -> 'txb-saga-output' ->> 'delivery')::bigint AS number"
    "  WHERE $1::bytea IS NOT NULL),"
    " gone AS (DELETE FROM booking.delivery AS d USING command AS c WHERE d.number = c.number RETURNING d.number, "
    "d.slot),"
    " given AS (UPDATE booking.slot AS s SET places = s.places + 1 FROM gone AS g WHERE s.name = g.slot RETURNING "
    "s.name)"
    " SELECT (SELECT g.number FROM gone AS g), (SELECT g.name FROM given AS g)";

static enum txb_outcome answer_book(const PGresult *r, struct booking *booking, struct txb_answer *answer) {
  if (PQgetisnull(r, 0, 0)) {
    snprintf(answer->reason, sizeof answer->reason, "no van is free: %.300s", PQgetvalue(r, 0, 1));
    return TXB_OUTCOME_REFUSE;
  }
  snprintf(booking->output, sizeof booking->output, "{\"delivery\": %.20s}", PQgetvalue(r, 0, 0));
  answer->output_json = booking->output;
  return TXB_OUTCOME_OK;
}

/* Called only for a delivery that was booked, and once: that it is not there is an error, as STRICT makes it in SQL. */
static enum txb_outcome answer_cancel(const PGresult *r, struct booking *booking, struct txb_answer *answer) {
  (void)booking;
  if (!PQgetisnull(r, 0, 0))
    return TXB_OUTCOME_OK;
  snprintf(answer->reason, sizeof answer->reason, "the delivery to cancel is not there");
  return TXB_OUTCOME_RETRY;
}

static const struct {
  const char *type, *sql;
  enum txb_outcome (*answer)(const PGresult *r, struct booking *booking, struct txb_answer *answer);
} commands[] = {
    {"booking.book", sql_book, answer_book},
    {"booking.cancel", sql_cancel, answer_cancel},
};

static enum txb_outcome handle(PGconn *conn, const struct txb_message *message, struct txb_answer *answer,
                               void *context) {
  size_t n = 0, count = sizeof commands / sizeof *commands;
  while (n < count && (strlen(commands[n].type) != message->type.size ||
                       memcmp(commands[n].type, message->type.data, message->type.size) != 0))
    n++;
  if (n == count) {
    snprintf(answer->reason, sizeof answer->reason, "no command of the booking");
    return TXB_OUTCOME_DEAD;
  }
  const char *values[] = {message->payload.data, message->headers_json};
  const int sizes[] = {(int)message->payload.size, 0}, formats[] = {1, 0};
  PGresult *r = PQexecParams(conn, commands[n].sql, 2, NULL, values, sizes, formats, 0);
  enum txb_outcome outcome = TXB_OUTCOME_RETRY;
  if (PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1)
    outcome = commands[n].answer(r, context, answer);
  else
    snprintf(answer->reason, sizeof answer->reason, "%.390s", PQresultErrorMessage(r));
  PQclear(r);
  return outcome;
}

static int open_booking(const char *argument, void **context) {
  (void)argument;
  *context = calloc(1, sizeof(struct booking));
  return *context == NULL;
}

extern const struct txb_plugin txb_plugin;
const struct txb_plugin txb_plugin = {.struct_size = sizeof txb_plugin,
                                      .abi = TXB_PLUGIN_ABI,
                                      .name = "booking",
                                      .open = open_booking,
                                      .handle = handle,
                                      .close = free};
