/* saga deploy: checks a definition, draws it, and keeps it. One statement, one transaction: a crash before it leaves nothing,
 * after it the definition is there; deploying it again changes nothing. */
#include <string.h>

#include "broker/cli/input.h"
#include "broker/cli/saga.h"
#include "broker/saga/drawing.h"
#include "broker/saga/nested.h"
#include "cli_sql.h"

static const struct txb_pg_statement deploy_statement = {"cli_saga_deploy", txb_text_cli_saga_deploy};

struct deployment {
  struct txb_json_document document;
  struct txb_saga_definition *definition;
  bool dry, is_new, looked_at_all;
};

/* As the configuration says; NULL: it does not, and the coordinator will. */
static const char *coordinator_topic(const struct txb_cli *cli) {
  const struct txb_settings *s = &cli->settings;
  const char *topic = NULL;
  size_t found = 0;
  for (size_t i = 0; i < s->workers.count; i++) {
    const struct txb_group_settings *group = txb_settings_group(s, i);
    if (strcmp(group->handler_kind, "coordinator") != 0)
      continue;
    topic = group->topics.items[0];
    found++;
  }
  return found == 1 ? topic : NULL;
}

static enum txb_rc keep_with(struct txb_cli *cli, struct txb_pg *pg, const struct txb_saga_definition *d,
                             struct txb_slice text, bool *new_out, struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(d->name));
  txb_pg_add_int4(&params, d->version);
  txb_pg_add_text(&params, text);
  if (d->deadline_ms > 0)
    txb_pg_add_int8(&params, d->deadline_ms);
  else
    txb_pg_add_null(&params, TXB_OID_INT8);
  txb_pg_add_text(&params, txb_slice_text(d->reply_topic));
  txb_pg_add_text(&params, txb_slice_text(coordinator_topic(cli)));
  txb_pg_add_text(&params, txb_slice_text(txb_person()));
  enum txb_rc rc = txb_failed_ask(pg, &deploy_statement, &params, "txb_admin", &r, err);
  if (rc == TXB_OK)
    *new_out = txb_pg_bool(r, 0, 0);
  return rc;
}

/* Without brokers nobody can be asked. */
static enum txb_rc check_topics(const struct txb_cli *cli, struct deployment *d, struct txb_error *err) {
  if (cli->settings.kafka.brokers != NULL)
    return txb_saga_check_topics(cli, &d->document, d->definition, err);
  d->looked_at_all = false;
  txb_say("without brokers (--brokers, kafka.brokers) whether its topics are there was not looked at");
  return TXB_OK;
}

static enum txb_rc check_and_keep(struct txb_cli *cli, struct txb_pg *pg, struct deployment *d, struct txb_error *err) {
  TXB_TRY(txb_saga_check_database(pg, &d->document, d->definition, coordinator_topic(cli), err));
  TXB_TRY(txb_saga_check_nested(pg, d->document.name, d->document.text, d->definition, err));
  return d->dry ? TXB_OK : keep_with(cli, pg, d->definition, d->document.text, &d->is_new, err);
}

/* A dry run does with what it is given, and says what it could not look at. */
static enum txb_rc keep(struct txb_cli *cli, struct deployment *d, struct txb_error *err) {
  struct txb_pg *pg = NULL;
  struct txb_error ignored;
  const char *uri;
  if (d->dry && txb_saga_database(cli, &uri, &ignored) != TXB_OK) {
    d->looked_at_all = false;
    txb_say("without the coordinator's database (--database URI) its input and output schemas, whether a topic is the "
            "coordinator's own, and whether sagas that are steps are deployed, and fit, was not looked at");
    return TXB_OK;
  }
  TXB_TRY(txb_saga_connect(cli, -1, &pg, err));
  enum txb_rc rc = check_and_keep(cli, pg, d, err);
  txb_pg_close(pg);
  return rc;
}

static const char *outcome(const struct deployment *d) {
  if (d->dry)
    return d->looked_at_all ? "it can be deployed" : "nothing stands against it, as far as it was looked at";
  return d->is_new ? "deployed: starts take this version from now on, if it is the highest"
                   : "it was deployed already, word for word";
}

static enum txb_rc print(const struct txb_cli *cli, const struct deployment *d, struct txb_error *err) {
  struct txb_buffer b TXB_CLEANUP(txb_buffer_fini);
  enum txb_saga_drawing how = TXB_SAGA_DRAWING_TEXT;
  const char *format = txb_args_text(&cli->args, "format");
  txb_buffer_init(&b);
  if (cli->output != TXB_OUTPUT_TEXT) {
    json_t *document = json_pack("{s:s, s:i, s:i, s:b, s:b, s:b}", "name", d->definition->name, "version",
                                 (int)d->definition->version, "steps", d->definition->count, "deployed", !d->dry, "new",
                                 d->is_new, "looked_at_all", d->looked_at_all);
    txb_failed_print_json(cli, document);
    json_decref(document);
    return TXB_OK;
  }
  if (format != NULL)
    (void)txb_saga_drawing_of(format, &how);
  TXB_TRY(txb_saga_draw(d->definition, how, NULL, &b, err));
  TXB_TRY(txb_buffer_check(&b, err));
  txb_print_buffer(&b);
  if (how == TXB_SAGA_DRAWING_TEXT)
    txb_print("\n%s\n", outcome(d));
  return TXB_OK;
}

static enum txb_rc deploy(struct txb_cli *cli, struct txb_error *err) {
  struct txb_buffer text TXB_CLEANUP(txb_buffer_fini);
  const char *path = cli->args.operands[0];
  struct deployment d = {.dry = txb_args_has(&cli->args, "dry-run"), .looked_at_all = true};
  txb_buffer_init(&text);
  TXB_TRY(txb_input_read(path, TXB_SAGA_DEFINITION_SIZE_MAX, &text, err));
  d.document =
      (struct txb_json_document){strcmp(path, "-") == 0 ? "standard input" : path, txb_slice_of(text.data, text.size)};
  TXB_TRY(txb_saga_definition_parse_new(d.document.name, d.document.text, &d.definition, err));
  enum txb_rc rc = check_topics(cli, &d, err);
  if (rc == TXB_OK)
    rc = keep(cli, &d, err);
  if (rc == TXB_OK)
    rc = print(cli, &d, err);
  txb_saga_definition_free(d.definition);
  return rc;
}

int txb_cmd_saga_deploy(struct txb_cli *cli) {
  struct txb_error err;
  return deploy(cli, &err) == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
