/* saga show: one saga, once or until it has ended. Changes nothing. */
#include <string.h>
#include <unistd.h>

#include "broker/cli/saga.h"
#include "common/loop.h"

#define LOOK_US 200000 /* between two looks */

static enum txb_rc look(struct txb_pg *pg, const struct txb_uuid *id, struct txb_saga_shown *out,
                        struct txb_error *err) {
  TXB_TRY(txb_saga_show(pg, id, out, err));
  return txb_saga_view_states(out, err);
}

/* The events that were not told yet. */
static void tell_new(const struct txb_cli *cli, const struct txb_saga_shown *shown, json_int_t *told) {
  const json_t *event;
  size_t n;
  json_array_foreach(shown->events, n, event) {
    struct txb_buffer line;
    if (txb_failed_integer(event, "n") <= *told)
      continue;
    *told = txb_failed_integer(event, "n");
    if (cli->output == TXB_OUTPUT_JSONL) {
      txb_failed_print_json(cli, event);
    } else if (cli->output == TXB_OUTPUT_TEXT) {
      txb_buffer_init(&line);
      txb_saga_view_event(event, n > 0 ? json_array_get(shown->events, n - 1) : NULL, &line);
      txb_buffer_add_text(&line, "\n");
      txb_print_buffer(&line);
      txb_buffer_fini(&line);
    }
  }
  (void)txb_print_flush();
}

static enum txb_rc follow(const struct txb_cli *cli, struct txb_pg *pg, const struct txb_uuid *id, int stop_fd,
                          struct txb_error *err) {
  json_int_t told = 0;
  for (bool ended = false; !ended;) {
    struct txb_saga_shown shown;
    enum txb_rc rc = look(pg, id, &shown, err);
    if (rc == TXB_OK) {
      tell_new(cli, &shown, &told);
      ended = txb_failed_text(shown.saga, "ended_at") != NULL;
      if (ended && cli->output != TXB_OUTPUT_JSONL)
        rc = txb_saga_view_print(cli, &shown, err);
    }
    txb_saga_shown_fini(&shown);
    TXB_TRY(rc);
    if (!ended && txb_pause(stop_fd, LOOK_US)) {
      txb_say("stopped watching; the saga goes on");
      return TXB_OK;
    }
  }
  return TXB_OK;
}

static enum txb_rc show(const struct txb_cli *cli, int stop_fd, struct txb_error *err) {
  struct txb_uuid id;
  struct txb_saga_shown shown;
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_saga_id_parse(cli->args.operands[0], &id, err));
  TXB_TRY(txb_saga_connect(cli, stop_fd, &pg, err));
  enum txb_rc rc;
  if (txb_args_has(&cli->args, "follow")) {
    rc = follow(cli, pg, &id, stop_fd, err);
  } else {
    rc = look(pg, &id, &shown, err);
    if (rc == TXB_OK)
      rc = txb_saga_view_print(cli, &shown, err);
    txb_saga_shown_fini(&shown);
  }
  txb_pg_close(pg);
  return rc;
}

int txb_cmd_saga_show(struct txb_cli *cli) {
  struct txb_error err;
  int stop_fd = -1;
  enum txb_rc rc = txb_args_has(&cli->args, "follow") ? txb_signals_open(&stop_fd, &err) : TXB_OK;
  if (rc == TXB_OK)
    rc = show(cli, stop_fd, &err);
  if (stop_fd >= 0)
    (void)close(stop_fd);
  return rc == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
