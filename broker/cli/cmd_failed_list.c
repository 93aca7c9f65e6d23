/* failed list: messages, or counts by what they have in common; of all databases. Changes nothing. */
#include <inttypes.h>
#include <string.h>

#include "broker/cli/failed.h"

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

struct list {
  const struct txb_cli *cli;
  json_t *filter;
  const char *by; /* NULL: messages */
  long long page, after;
  size_t flags;   /* of the filter */
  bool several;   /* databases */
  json_t *rows;   /* of all databases */
  json_t *states; /* counts of all databases */
  int64_t total;
  bool more; /* rows are missing */
};

static enum txb_rc take_options(struct list *l, struct txb_error *err) {
  const struct txb_args *args = &l->cli->args;
  const char *sort = txb_args_text(args, "sort");
  l->page = 50;
  TXB_TRY(txb_args_integer(args, "limit", 1, TXB_FAILED_PAGE_MAX, &l->page, err));
  TXB_TRY(txb_args_integer(args, "after", 1, INT64_MAX, &l->after, err));
  TXB_TRY(txb_failed_filter(args, &l->filter, &l->flags, err));
  l->flags += txb_args_has(args, "group") + txb_args_has(args, "source");
  l->by = txb_args_text(args, "group-by");
  if (l->by != NULL && (l->after > 0 || sort != NULL))
    return REFUSE(err, "--group-by counts: it takes no --%s", sort != NULL ? "sort" : "after");
  if (sort != NULL)
    (void)json_object_set_new(l->filter, "order", json_string(sort));
  return TXB_OK;
}

static enum txb_rc take_targets(struct list *l, struct txb_targets *targets, struct txb_error *err) {
  TXB_TRY(txb_failed_targets(l->cli, targets, err));
  l->several = targets->count > 1;
  if (l->after > 0 && l->several)
    return REFUSE(err,
                  "--after goes on in one database, and the configuration has %zu: choose with --group GROUP, "
                  "--source SOURCE or --database URI",
                  targets->count);
  return TXB_OK;
}

static void add_states(struct list *l, const json_t *states) {
  const char *name;
  json_t *count;
  json_object_foreach((json_t *)(uintptr_t)states, name, count) {
    json_int_t sum = json_integer_value(json_object_get(l->states, name)) + json_integer_value(count);
    (void)json_object_set_new(l->states, name, json_integer(sum));
  }
}

/* Counts are of all messages of the filter: what these don't count is in others. */
static enum txb_rc count(struct list *l, struct txb_pg *pg, int64_t total, json_t **out, bool *more_out,
                         struct txb_error *err) {
  const json_t *row;
  size_t i;
  TXB_TRY(txb_failed_count(pg, l->filter, l->by, (int)l->page, out, err));
  json_array_foreach(*out, i, row) {
    total -= txb_failed_integer(row, "messages");
  }
  *more_out = json_array_size(*out) == (size_t)l->page && total > 0;
  return TXB_OK;
}

/* A page of one database, with its name in each row. */
static enum txb_rc look(struct list *l, struct txb_pg *pg, struct txb_error *err) {
  json_t *rows, *states, *row;
  int64_t total;
  bool more;
  size_t i;
  TXB_TRY(txb_failed_states(pg, l->filter, &states, &total, err));
  enum txb_rc rc = l->by == NULL ? txb_failed_find_page(pg, l->filter, l->after, (int)l->page, &rows, &more, err)
                                 : count(l, pg, total, &rows, &more, err);
  if (rc == TXB_OK) {
    add_states(l, states);
    l->total += total;
    l->more = l->more || more;
    json_array_foreach(rows, i, row) {
      (void)json_object_set_new(row, "database", json_string(txb_pg_name(pg)));
      (void)json_array_append(l->rows, row);
    }
    json_decref(rows);
  }
  json_decref(states);
  return rc;
}

/* ---- text ------------------------------------------------------------------------------------------------- */

static void print_groups(const struct list *l, const json_t *rows) {
  struct txb_column columns[] = {{"MESSAGES", TXB_RIGHT},
                                 {"OLDEST", TXB_RIGHT},
                                 {"EXAMPLE", TXB_RIGHT},
                                 {"ERRORS LIKE", TXB_LEFT},
                                 {"", TXB_LEFT}};
  bool error = strcmp(l->by, "error") == 0;
  struct txb_table table;
  const json_t *row;
  char age[24];
  size_t i;
  json_int_t behind = 0;
  columns[4].title = error                         ? "ERROR"
                     : strcmp(l->by, "key") == 0   ? "KEY"
                     : strcmp(l->by, "type") == 0  ? "TYPE"
                     : strcmp(l->by, "topic") == 0 ? "TOPIC"
                     : strcmp(l->by, "state") == 0 ? "STATE"
                     : strcmp(l->by, "group") == 0 ? "GROUP"
                                                   : "SOURCE";
  if (!error)
    columns[3] = columns[4];
  txb_table_init(&table, columns, error ? 5 : 4);
  json_array_foreach(rows, i, row) {
    if (error && txb_failed_text(row, "value") == NULL) {
      behind = json_integer_value(json_object_get(row, "messages"));
      continue;
    }
    txb_failed_cell(&table, row, "messages", 0);
    txb_format_age(json_integer_value(json_object_get(row, "age_ms")), age);
    txb_table_cell(&table, age);
    txb_failed_cell(&table, row, "example", 0);
    if (error)
      txb_failed_cell(&table, row, "error_group", 0);
    txb_failed_cell(&table, row, "value", error ? 100 : 60);
  }
  if (table.cell_count > 0)
    txb_table_print(&table, l->cli, 0);
  txb_table_fini(&table);
  if (behind > 0)
    txb_print("%" JSON_INTEGER_FORMAT " have no error of their own: they wait behind others, or were edited\n", behind);
}

static void print_rows(const struct list *l, const json_t *rows) {
  if (l->by != NULL)
    print_groups(l, rows);
  else
    txb_failed_print_table(l->cli, rows, 0);
}

/* The rows of each database below its name, when there are several. */
static void print_by_database(const struct list *l) {
  const char *name = NULL;
  json_t *some = json_array(), *row;
  size_t i;
  json_array_foreach(l->rows, i, row) {
    const char *database = txb_failed_text(row, "database");
    if (name != NULL && strcmp(name, database) != 0) {
      print_rows(l, some);
      (void)json_array_clear(some);
    }
    if (name == NULL || strcmp(name, database) != 0)
      txb_print("%s%s%s%s\n", name == NULL ? "" : "\n", txb_color(l->cli, "\033[1m"), database,
                txb_color(l->cli, "\033[0m"));
    name = database;
    (void)json_array_append(some, row);
  }
  print_rows(l, some);
  json_decref(some);
}

static void print_text(const struct list *l) {
  struct txb_buffer states;
  txb_buffer_init(&states);
  txb_failed_states_text(l->states, &states);
  if (json_array_size(l->rows) > 0 && l->several)
    print_by_database(l);
  else if (json_array_size(l->rows) > 0)
    print_rows(l, l->rows);
  else if (l->total > 0 && l->after > 0)
    txb_print(TXB_FAILED_PAST_END, l->after);
  if (l->total > 0)
    txb_print("\n%" PRId64 " message%s: %s\n", l->total, l->total == 1 ? "" : "s", txb_buffer_text(&states));
  else
    txb_print("no failed messages\n");
  txb_buffer_fini(&states);
  size_t count = json_array_size(l->rows);
  if (!l->more || count == 0)
    return;
  if (l->by != NULL || l->several)
    txb_print("more are there: --limit N shows them\n");
  else
    txb_print("more follow: --after %" JSON_INTEGER_FORMAT "\n",
              json_integer_value(json_object_get(json_array_get(l->rows, count - 1), "number")));
}

/* ---- JSON ------------------------------------------------------------------------------------------------- */

static void print_json(const struct list *l) {
  const json_t *row;
  size_t i;
  if (l->cli->output == TXB_OUTPUT_JSONL) {
    json_array_foreach(l->rows, i, row) {
      txb_failed_print_json(l->cli, row);
    }
    return;
  }
  size_t count = json_array_size(l->rows);
  bool paged = l->more && l->by == NULL && !l->several && count > 0;
  json_t *document =
      json_pack("{s:O, s:I, s:O, s:o}", l->by == NULL ? "messages" : "groups", l->rows, "matched", (json_int_t)l->total,
                "states", l->states, "next_after",
                paged ? json_incref(json_object_get(json_array_get(l->rows, count - 1), "number")) : json_null());
  txb_failed_print_json(l->cli, document);
  json_decref(document);
}

static int finish(const struct list *l) {
  bool nothing = l->total == 0 && l->flags > 0;
  if (l->cli->output != TXB_OUTPUT_TEXT)
    print_json(l);
  else if (!nothing)
    print_text(l);
  if (!nothing)
    return TXB_EXIT_DONE;
  bool stated = txb_args_has(&l->cli->args, "state");
  txb_say("no failed message is like that; `txbroker failed list%s` shows %s", stated ? "" : " --state any",
          stated ? "what there is" : "closed ones too");
  return TXB_EXIT_FAILED;
}

int txb_cmd_failed_list(struct txb_cli *cli) {
  struct txb_error err;
  struct txb_targets targets = {NULL, 0};
  struct list l = {.cli = cli, .rows = json_array(), .states = json_object()};
  int code = TXB_EXIT_DONE;
  enum txb_rc rc = take_options(&l, &err);
  if (rc == TXB_OK)
    rc = take_targets(&l, &targets, &err);
  if (rc != TXB_OK)
    code = txb_fail(&err);
  for (size_t i = 0; rc == TXB_OK && i < targets.count; i++) { /* one that is away hides no other */
    struct txb_pg *pg = NULL;
    enum txb_rc one = txb_failed_connect(cli, targets.items[i].uri, &pg, &err);
    if (one == TXB_OK)
      one = look(&l, pg, &err);
    txb_pg_close(pg);
    if (one != TXB_OK && code == TXB_EXIT_DONE)
      code = txb_fail(&err);
    else if (one != TXB_OK)
      (void)txb_fail(&err);
    if (one == TXB_REFUSED && strncmp(err.sqlstate, "22", 2) == 0)
      break; /* the filter is wrong everywhere */
  }
  if (rc == TXB_OK && (code == TXB_EXIT_DONE || l.total > 0)) {
    int found = finish(&l);
    code = code == TXB_EXIT_DONE ? found : code;
  }
  json_decref(l.filter);
  json_decref(l.rows);
  json_decref(l.states);
  txb_targets_fini(&targets);
  return code;
}
