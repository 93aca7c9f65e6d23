/* saga deploy: checks a definition, draws it, and keeps it. One statement, one transaction: a crash before it leaves nothing,
 * after it the definition is there; deploying it again changes nothing. */
#include <string.h>

#include "broker/cli/input.h"
#include "broker/cli/saga.h"
#include "broker/saga/drawing.h"
#include "broker/saga/nested.h"
#include "cli_sql.h"
#include "common/kafka_inspect.h"

static const struct txb_pg_statement deploy_statement = {"cli_saga_deploy", txb_text_cli_saga_deploy};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)
#define CONNECT_MS       10000

/* Commands to a topic that nobody made would wait for ever. Without brokers nobody can be asked. */
static enum txb_rc check_topics(const struct txb_cli *cli, const struct txb_saga_definition *d, struct txb_error *err) {
  struct txb_kafka_inspect *kafka = NULL;
  struct txb_kafka_cluster cluster = txb_cli_cluster(cli, "txbroker-deploy");
  if (cli->settings.kafka.brokers == NULL) {
    txb_say("without brokers (--brokers, kafka.brokers) whether its topics are there was not looked at");
    return TXB_OK;
  }
  TXB_TRY(txb_kafka_inspect_open(&cluster, CONNECT_MS, &kafka, err));
  enum txb_rc rc = TXB_OK;
  for (int i = 0; rc == TXB_OK && i < d->count; i++) {
    int partitions = 0;
    if (d->steps[i].topic == NULL)
      continue;
    rc = txb_kafka_inspect_partitions(kafka, d->steps[i].topic, &partitions, err);
    if (rc == TXB_OK && partitions < 0)
      rc = REFUSE(err, "steps[%d].topic: there is no topic %s at %s; create it, or correct the definition", i,
                  d->steps[i].topic, cli->settings.kafka.brokers);
  }
  txb_kafka_inspect_close(kafka);
  return rc;
}

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

static enum txb_rc keep(struct txb_cli *cli, const char *file_name, struct txb_saga_definition *d,
                        struct txb_slice text, bool *new_out, struct txb_error *err) {
  struct txb_pg *pg = NULL;
  TXB_TRY(txb_saga_connect(cli, -1, &pg, err));
  enum txb_rc rc = txb_saga_check_nested(pg, file_name, text, d, err);
  if (rc == TXB_OK)
    rc = keep_with(cli, pg, d, text, new_out, err);
  txb_pg_close(pg);
  return rc;
}

static enum txb_rc print(const struct txb_cli *cli, const struct txb_saga_definition *d, bool dry, bool is_new,
                         struct txb_error *err) {
  struct txb_buffer b TXB_CLEANUP(txb_buffer_fini);
  enum txb_saga_drawing how = TXB_SAGA_DRAWING_TEXT;
  const char *format = txb_args_text(&cli->args, "format");
  txb_buffer_init(&b);
  if (cli->output != TXB_OUTPUT_TEXT) {
    json_t *document = json_pack("{s:s, s:i, s:i, s:b, s:b}", "name", d->name, "version", (int)d->version, "steps",
                                 d->count, "deployed", !dry, "new", is_new);
    txb_failed_print_json(cli, document);
    json_decref(document);
    return TXB_OK;
  }
  if (format != NULL)
    (void)txb_saga_drawing_of(format, &how);
  TXB_TRY(txb_saga_draw(d, how, NULL, &b, err));
  TXB_TRY(txb_buffer_check(&b, err));
  txb_print_buffer(&b);
  if (how == TXB_SAGA_DRAWING_TEXT)
    txb_print("\n%s\n", dry      ? "it can be deployed"
                        : is_new ? "deployed: starts take this version from now on, if it is the highest"
                                 : "it was deployed already, word for word");
  return TXB_OK;
}

static enum txb_rc deploy(struct txb_cli *cli, struct txb_error *err) {
  struct txb_buffer text TXB_CLEANUP(txb_buffer_fini);
  struct txb_saga_definition *d = NULL;
  const char *path = cli->args.operands[0];
  bool dry = txb_args_has(&cli->args, "dry-run"), is_new = false;
  txb_buffer_init(&text);
  TXB_TRY(txb_input_read(path, TXB_SAGA_DEFINITION_SIZE_MAX, &text, err));
  const char *file_name = strcmp(path, "-") == 0 ? "standard input" : path;
  TXB_TRY(txb_saga_definition_parse(file_name, txb_slice_of(text.data, text.size), &d, err));
  enum txb_rc rc = dry ? TXB_OK : check_topics(cli, d, err);
  if (dry && txb_saga_has_nested(d))
    txb_say("with --dry-run whether the sagas in it are deployed, and fit, was not looked at");
  if (rc == TXB_OK && !dry)
    rc = keep(cli, file_name, d, txb_slice_of(text.data, text.size), &is_new, err);
  if (rc == TXB_OK)
    rc = print(cli, d, dry, is_new, err);
  txb_saga_definition_free(d);
  return rc;
}

int txb_cmd_saga_deploy(struct txb_cli *cli) {
  struct txb_error err;
  return deploy(cli, &err) == TXB_OK ? TXB_EXIT_DONE : txb_fail(&err);
}
