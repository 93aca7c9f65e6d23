/* Lists of jobs, of replays and of decisions about failed messages: those of several databases, the newest first, page by
 * page. Changes nothing. */
#include "broker/cli/job_list.h"

#include <inttypes.h>

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

struct list {
  const struct txb_cli *cli;
  const struct txb_job_kind *kind;
  long long page, after;
  bool several; /* databases */
  bool more;    /* rows are missing */
  json_t *jobs; /* of all databases */
};

/* A page of one database, with its name in each row. */
static enum txb_rc look(struct list *l, const char *uri, struct txb_error *err) {
  struct txb_pg *pg = NULL;
  json_t *jobs, *job;
  size_t i;
  TXB_TRY(txb_failed_connect(l->cli, uri, &pg, err));
  enum txb_rc rc = l->kind->list(pg, l->after, (int)l->page + 1, &jobs, err); /* one more tells whether more follow */
  if (rc == TXB_OK) {
    l->more = l->more || json_array_size(jobs) > (size_t)l->page;
    (void)json_array_remove(jobs, (size_t)l->page);
    if (l->cli->output == TXB_OUTPUT_TEXT && json_array_size(jobs) > 0) {
      if (l->several)
        txb_print("%s%s\n", json_array_size(l->jobs) > 0 ? "\n" : "", txb_pg_name(pg));
      l->kind->print_table(l->cli, jobs, 0);
    }
    json_array_foreach(jobs, i, job) {
      (void)json_object_set_new(job, "server", json_string(txb_pg_name(pg)));
      (void)json_array_append(l->jobs, job);
    }
    json_decref(jobs);
  }
  txb_pg_close(pg);
  return rc;
}

static void finish(const struct list *l) {
  size_t count = json_array_size(l->jobs), i;
  const json_t *last = count == 0 ? NULL : json_object_get(json_array_get(l->jobs, count - 1), "number"), *job;
  bool paged = l->more && !l->several;
  if (l->cli->output == TXB_OUTPUT_JSONL) {
    json_array_foreach(l->jobs, i, job) {
      txb_failed_print_json(l->cli, job);
    }
  } else if (l->cli->output == TXB_OUTPUT_JSON) {
    json_t *document = json_pack("{s:O, s:o}", "jobs", l->jobs, "next_after",
                                 paged ? json_integer(json_integer_value(last)) : json_null());
    txb_failed_print_json(l->cli, document);
    json_decref(document);
  } else if (count == 0 && l->after > 0) {
    txb_print(TXB_FAILED_PAST_END, l->after);
  } else if (count == 0) {
    txb_print("no jobs\n");
  } else if (paged) {
    txb_print("more follow: --after %" JSON_INTEGER_FORMAT "\n", json_integer_value(last));
  } else if (l->more) {
    txb_print("more are there: --limit N shows them\n");
  }
}

static int list(struct list *l, const struct txb_targets *targets) {
  struct txb_error err;
  int code = TXB_EXIT_DONE;
  for (size_t i = 0; i < targets->count; i++) { /* one that is away hides no other */
    if (look(l, targets->items[i].uri, &err) == TXB_OK)
      continue;
    int failed = txb_fail(&err);
    code = code == TXB_EXIT_DONE ? failed : code;
  }
  if (code == TXB_EXIT_DONE || json_array_size(l->jobs) > 0)
    finish(l);
  return code;
}

int txb_job_list(struct txb_cli *cli, const struct txb_job_kind *kind) {
  struct txb_error err;
  struct txb_targets targets = {NULL, 0};
  struct list l = {.cli = cli, .kind = kind, .page = 50};
  enum txb_rc rc = txb_args_integer(&cli->args, "limit", 1, 1000, &l.page, &err);
  if (rc == TXB_OK)
    rc = txb_args_integer(&cli->args, "after", 1, INT64_MAX, &l.after, &err);
  if (rc == TXB_OK)
    rc = kind->targets(cli, &targets, &err);
  if (rc == TXB_OK && l.after > 0 && targets.count > 1)
    rc = REFUSE(&err, "--after goes on in one database, and %s have %zu: choose with --group GROUP or --database URI",
                kind->owners, targets.count);
  int code = TXB_EXIT_DONE;
  if (rc == TXB_OK) {
    l.several = targets.count > 1;
    l.jobs = json_array();
    code = list(&l, &targets);
    json_decref(l.jobs);
  }
  txb_targets_fini(&targets);
  return rc == TXB_OK ? code : txb_fail(&err);
}
