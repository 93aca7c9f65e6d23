/* An application outside the tree, built against the installed library by test_outside.py. It talks to no server: that the functions link and
 * answer as their headers say is enough here. */
#include <stdio.h>
#include <string.h>

#include <txbroker/consumer.h>
#include <txbroker/error.h>
#include <txbroker/outbox.h>
#include <txbroker/request.h>
#include <txbroker/saga.h>

static enum txb_outcome handle(PGconn *conn, const struct txb_message *message, struct txb_answer *answer,
                               void *context) {
  (void)conn;
  (void)message;
  (void)answer;
  (void)context;
  return TXB_OUTCOME_OK;
}

int main(void) {
  struct txb_error err = {0};
  int faults = 0;

  if (strcmp(txb_rc_name(TXB_FENCED), "fenced") != 0)
    faults |= 1;

  /* A connection that never was one: the intent can't be written, and the message says why. */
  PGconn *conn = PQconnectdb("host=/nonexistent dbname=nowhere");
  struct txb_intent intent = {
      .topic = "transfers", .key = txb_bytes("42"), .type = "transfer.made", .payload = txb_bytes("{}")};
  if (txb_publish(conn, &intent, NULL, &err) == TXB_OK || err.message[0] == '\0')
    faults |= 2;
  if (txb_publish_many(conn, &intent, 1, NULL, &err) == TXB_OK || err.message[0] == '\0')
    faults |= 4;

  /* Nor can a saga be started there, or be waited for. */
  char id[37];
  struct txb_saga_result *result = NULL;
  const struct txb_saga_order order = {.name = "trip"};
  if (txb_saga_start(conn, &order, id, &err) == TXB_OK || err.message[0] == '\0')
    faults |= 16;
  if (txb_saga_wait(conn, "0190163d-8694-739b-aea5-966c26f8ad91", 0, &result, &err) == TXB_OK || result != NULL)
    faults |= 32;
  txb_saga_result_free(result);
  struct txb_reply *reply = NULL;
  const struct txb_request_order asked = {.topic = "rooms", .type = "room.hold"};
  if (txb_request(conn, &asked, id, &err) == TXB_OK || err.message[0] == '\0')
    faults |= 64;
  if (txb_request_wait(conn, "0190163d-8694-739b-aea5-966c26f8ad91", &reply, &err) == TXB_OK || reply != NULL)
    faults |= 128;
  txb_reply_free(reply);
  PQfinish(conn);

  /* A worker without a topic is a wrong option, found before any server is asked. */
  const char *topics[] = {NULL};
  struct txb_worker *worker = NULL;
  struct txb_worker_options options = {.struct_size = sizeof options,
                                       .group = "ledger",
                                       .topics = topics,
                                       .database = "host=/nonexistent",
                                       .brokers = "127.0.0.1:1"};
  if (txb_worker_new(&options, handle, NULL, &worker, &err) != TXB_REFUSED || worker != NULL || err.message[0] == '\0')
    faults |= 8;

  printf("faults %d: %s\n", faults, err.message);
  return faults;
}
