/* The payment's participant as a plugin, for the tests of sagas: books and cancels as travel.handle does, by the functions of
 * travel.sql, refuses what it has written already, and gives the booking's number as its output, with as much more as it is
 * told to. */
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <txbroker/consumer.h>

static char output[2000000];

static const char sql_book[] =
    "WITH m AS (SELECT convert_from($1::bytea, 'UTF8')::jsonb AS input, $2::jsonb AS headers)"
    " SELECT travel.book((headers ->> 'txb-saga')::uuid, 'payment', (input ->> 'amount')::bigint, true),"
    "  coalesce(input ->> 'refuse' = 'payment', false),"
    "  repeat('x', coalesce((input -> 'bulk' ->> 'payment')::int, 0)) FROM m";
static const char sql_cancel[] = "SELECT travel.cancel(($2::jsonb -> 'txb-saga-output' ->> 'booking')::bigint), false"
                                 " WHERE octet_length($1::bytea) > 0";

static enum txb_outcome apply(PGconn *conn, const struct txb_message *message, struct txb_answer *answer,
                              void *context) {
  (void)context;
  const struct txb_slice *type = &message->type;
  bool books = type->size == 12 && memcmp(type->data, "payment.book", 12) == 0;
  const char *values[] = {message->payload.data, message->headers_json};
  const int sizes[] = {(int)message->payload.size, 0}, formats[] = {1, 0};
  PGresult *r = PQexecParams(conn, books ? sql_book : sql_cancel, 2, NULL, values, sizes, formats, 0);
  enum txb_outcome outcome = TXB_OUTCOME_OK;
  if (PQresultStatus(r) != PGRES_TUPLES_OK || PQntuples(r) != 1) {
    snprintf(answer->reason, sizeof answer->reason, "%.390s", PQresultErrorMessage(r));
    outcome = TXB_OUTCOME_RETRY;
  } else if (strcmp(PQgetvalue(r, 0, 1), "t") == 0) {
    snprintf(answer->reason, sizeof answer->reason, "no payment is left");
    outcome = TXB_OUTCOME_REFUSE;
  } else if (books) {
    snprintf(output, sizeof output, "{\"booking\": %.20s, \"bulk\": \"%s\"}", PQgetvalue(r, 0, 0), PQgetvalue(r, 0, 2));
    answer->output_json = output;
  }
  PQclear(r);
  return outcome;
}

const struct txb_plugin txb_plugin = {
    .struct_size = sizeof txb_plugin, .abi = TXB_PLUGIN_ABI, .name = "travel", .handle = apply};
