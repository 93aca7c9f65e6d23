/* What the coordinator's database is asked. See saga.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/saga.h"
#include "cli_sql.h"
#include "common/clock.h"
#include "common/loop.h"

static const struct txb_pg_statement result_statement = {"cli_saga_result", txb_text_cli_saga_result},
                                     show_statement = {"cli_saga_show", txb_text_cli_saga_show};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define LOOK_FIRST_US    INT64_C(2000) /* between two looks, growing */
#define LOOK_LONGEST_US  INT64_C(100000)

enum txb_rc txb_saga_database(const struct txb_cli *cli, const char **uri_out, struct txb_error *err) {
  const struct txb_settings *s = &cli->settings;
  size_t found = 0;
  const char *given = txb_args_text(&cli->args, "database");
  *uri_out = given;
  if (given != NULL)
    return TXB_OK;
  for (size_t i = 0; i < s->workers.count; i++) {
    const struct txb_group_settings *group = txb_settings_group(s, i);
    if (strcmp(group->handler_kind, "coordinator") != 0)
      continue;
    *uri_out = group->database;
    found++;
  }
  if (found == 1)
    return TXB_OK;
  if (found == 0)
    return txb_cli_database(cli, uri_out, err);
  return REFUSE(err, "the configuration has %zu coordinators: choose their database with --database URI", found);
}

enum txb_rc txb_saga_connect(const struct txb_cli *cli, int stop_fd, struct txb_pg **out, struct txb_error *err) {
  const char *uri;
  TXB_TRY(txb_saga_database(cli, &uri, err));
  return txb_failed_connect_until(cli, uri, stop_fd, out, err);
}

enum txb_rc txb_saga_id_parse(const char *text, struct txb_uuid *out, struct txb_error *err) {
  struct txb_error ignored;
  if (txb_uuid_parse(txb_slice_text(text), out, &ignored) == TXB_OK)
    return TXB_OK;
  return REFUSE(err, "\"%.60s\" is no saga's id, which is a UUID; `txbroker saga list` shows them", text);
}

enum txb_rc txb_saga_result(struct txb_pg *pg, const struct txb_uuid *id, json_t **out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_uuid(&params, id);
  TXB_TRY(txb_failed_ask(pg, &result_statement, &params, "txb_app", &r, err));
  *out = txb_failed_json(r, 0, 0);
  return TXB_OK;
}

bool txb_saga_result_is_final(const json_t *result) {
  const char *state = txb_failed_text(result, "state");
  return strcmp(state, "running") != 0 && strcmp(state, "unknown") != 0;
}

enum txb_rc txb_saga_await(struct txb_pg *pg, const struct txb_uuid *id, int64_t until_us, int stop_fd, json_t **out,
                           struct txb_error *err) {
  int64_t pause_us = LOOK_FIRST_US;
  for (;;) {
    TXB_TRY(txb_saga_result(pg, id, out, err));
    int64_t left_us = until_us - txb_clock_steady_us();
    if (txb_saga_result_is_final(*out) || left_us <= 0 || txb_pause(stop_fd, pause_us < left_us ? pause_us : left_us))
      return TXB_OK;
    json_decref(*out);
    *out = NULL;
    pause_us = pause_us * 3 / 2 < LOOK_LONGEST_US ? pause_us * 3 / 2 : LOOK_LONGEST_US;
  }
}

int txb_saga_print_result(const struct txb_cli *cli, const json_t *result) {
  const char *state = txb_failed_text(result, "state"), *id = txb_failed_text(result, "saga");
  const char *reason = txb_failed_text(result, "reason");
  if (cli->output != TXB_OUTPUT_TEXT) {
    txb_failed_print_json(cli, result);
  } else if (!txb_saga_result_is_final(result)) {
    txb_print("saga %s is %s: ask again, txbroker saga wait %s\n", id,
              strcmp(state, "running") == 0 ? "still running" : "not known here (yet)", id);
  } else {
    char *output = json_dumps(json_object_get(result, "output"), JSON_COMPACT | JSON_ENCODE_ANY);
    txb_print("saga %s is %s%s%s\n", id, state, reason != NULL ? ": " : "", reason != NULL ? reason : "");
    if (output != NULL)
      txb_print("%s\n", output);
    free(output);
  }
  return strcmp(state, "completed") == 0 ? TXB_EXIT_DONE : TXB_EXIT_FAILED;
}

enum txb_rc txb_saga_show(struct txb_pg *pg, const struct txb_uuid *id, struct txb_saga_shown *out,
                          struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  struct txb_error ignored;
  char text[37];
  *out = (struct txb_saga_shown){.saga = NULL};
  txb_pg_params_init(&params);
  txb_pg_add_uuid(&params, id);
  TXB_TRY(txb_failed_ask(pg, &show_statement, &params, "txb_reader", &r, err));
  txb_uuid_format(id, text);
  if (txb_pg_rows(r) == 0)
    return REFUSE(err, "there is no saga %s in %s; `txbroker saga list` shows them", text, txb_pg_name(pg));
  out->saga = txb_failed_json(r, 0, 0);
  out->events = txb_failed_json(r, 0, 2);
  if (!txb_pg_is_null(r, 0, 1) &&
      txb_saga_definition_parse("definition", txb_pg_bytes(r, 0, 1), &out->definition, &ignored) != TXB_OK)
    txb_say("this program can't read the saga's definition: %s", ignored.message);
  if (out->definition != NULL && txb_saga_pin(out->definition, txb_pg_jsonb(r, 0, 3), &ignored) != TXB_OK)
    txb_say("%s", ignored.message);
  return TXB_OK;
}

void txb_saga_shown_fini(struct txb_saga_shown *shown) {
  json_decref(shown->saga);
  json_decref(shown->events);
  txb_saga_definition_free(shown->definition);
  *shown = (struct txb_saga_shown){.saga = NULL};
}
