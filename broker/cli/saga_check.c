/* What a definition needs of servers: that its topics exist, and what the coordinator's database has against it. txb.saga_deploy
 * looks at the latter again, and what it finds counts; here it is told by file and line. See saga.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/saga.h"
#include "cli_sql.h"
#include "common/kafka_inspect.h"

static const struct txb_pg_statement statement = {"cli_saga_problem", txb_text_cli_saga_problem};

#define CONNECT_MS 10000
enum { PLACE_MAX = 100 };

enum txb_rc txb_saga_refuse_at(const struct txb_json_document *document, const struct txb_json_step *path, size_t depth,
                               struct txb_error *err, const char *fmt, ...) {
  char where[TXB_JSON_WHERE_SIZE], text[400];
  va_list args;
  va_start(args, fmt);
  (void)vsnprintf(text, sizeof text, fmt, args);
  va_end(args);
  txb_json_describe(document, path, depth, where);
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s: %s", where, text);
}

/* ---- topics ------------------------------------------------------------------------------------------------ */

static enum txb_rc check_topic(const struct txb_cli *cli, struct txb_kafka_inspect *kafka,
                               const struct txb_json_document *document, const struct txb_json_step *path, size_t depth,
                               const char *topic, struct txb_error *err) {
  int partitions = 0;
  if (topic == NULL)
    return TXB_OK;
  TXB_TRY(txb_kafka_inspect_partitions(kafka, topic, &partitions, err));
  if (partitions >= 0)
    return TXB_OK;
  return txb_saga_refuse_at(document, path, depth, err,
                            "there is no topic %s at %s; create it, or correct the definition", topic,
                            cli->settings.kafka.brokers);
}

static enum txb_rc check_each(const struct txb_cli *cli, struct txb_kafka_inspect *kafka,
                              const struct txb_json_document *document, const struct txb_saga_definition *d,
                              struct txb_error *err) {
  for (int i = 0; i < d->count; i++) {
    const struct txb_json_step path[] = {{.key = "steps"}, {.index = (size_t)i}, {.key = "topic"}};
    TXB_TRY(check_topic(cli, kafka, document, path, TXB_ARRAY_SIZE(path), d->steps[i].topic, err));
  }
  const struct txb_json_step path = {.key = "reply_topic"};
  return check_topic(cli, kafka, document, &path, 1, d->reply_topic, err);
}

/* Commands to a topic that nobody made would wait for ever. */
enum txb_rc txb_saga_check_topics(const struct txb_cli *cli, const struct txb_json_document *document,
                                  const struct txb_saga_definition *definition, struct txb_error *err) {
  struct txb_kafka_inspect *kafka = NULL;
  struct txb_kafka_cluster cluster = txb_cli_cluster(cli, "txbroker-deploy");
  TXB_TRY(txb_kafka_inspect_open(&cluster, CONNECT_MS, &kafka, err));
  enum txb_rc rc = check_each(cli, kafka, document, definition, err);
  txb_kafka_inspect_close(kafka);
  return rc;
}

/* ---- the coordinator's database ---------------------------------------------------------------------------- */

/* The member whose name a text goes on with, the longest of several; NULL: none. */
static const char *member_named(json_t *object, const char *text) {
  const char *found = NULL, *name;
  json_t *value;
  json_object_foreach(object, name, value) {
    size_t size = strlen(name);
    bool fits = strncmp(text, name, size) == 0 && strchr(".[: ", text[size]) != NULL;
    if (fits && (found == NULL || size > strlen(found)))
      found = name;
  }
  return found;
}

/* The place with which a problem begins ("input.properties.seat.type can't be ..."), as far as it is found in the definition: how
 * many steps of *path_out, and where the text goes on. */
static size_t place_of(json_t *value, const char *problem, struct txb_json_step path_out[PLACE_MAX],
                       const char **rest_out) {
  const char *at = problem;
  size_t depth = 0;
  while (value != NULL && depth < PLACE_MAX) {
    if (json_is_array(value) && *at == '[') {
      char *end;
      size_t index = strtoul(at + 1, &end, 10);
      if (*end != ']' || index >= json_array_size(value))
        break;
      path_out[depth++] = (struct txb_json_step){.index = index};
      value = json_array_get(value, index);
      at = end + 1;
      continue;
    }
    const char *from = at + (depth > 0 && *at == '.');
    const char *name = json_is_object(value) && (depth == 0 || from > at) ? member_named(value, from) : NULL;
    if (name == NULL)
      break;
    path_out[depth++] = (struct txb_json_step){.key = name};
    value = json_object_get(value, name);
    at = from + strlen(name);
  }
  *rest_out = at;
  return depth;
}

static enum txb_rc refuse(const struct txb_json_document *document, const struct txb_saga_definition *d,
                          const char *problem, const char *advice, struct txb_error *err) {
  struct txb_json_step path[PLACE_MAX];
  const char *rest;
  char where[TXB_JSON_WHERE_SIZE];
  size_t depth = place_of(d->root, problem, path, &rest);
  txb_json_describe(document, path, depth, where);
  return TXB_FAIL_FROM(err, TXB_REFUSED, TXB_ORIGIN_USAGE, "%s%s%s%s%s", where, depth == 0 ? ": " : "", rest,
                       *advice != '\0' ? ". " : "", advice);
}

enum txb_rc txb_saga_check_database(struct txb_pg *pg, const struct txb_json_document *document,
                                    const struct txb_saga_definition *definition, const char *coordinator_topic,
                                    struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *r = NULL;
  struct txb_pg_params params;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, document->text);
  txb_pg_add_text(&params, txb_slice_text(coordinator_topic));
  TXB_TRY(txb_failed_ask(pg, &statement, &params, "txb_admin", &r, err));
  const char *problem = txb_pg_text(r, 0, 0), *advice = txb_pg_text(r, 0, 1);
  if (problem == NULL)
    return TXB_OK;
  return refuse(document, definition, problem, advice == NULL ? "" : advice, err);
}
