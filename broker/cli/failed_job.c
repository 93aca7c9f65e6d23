/* A job that decides about many failed messages, run by the command that started it or resumes it. Each step is one
 * transaction of the server: killed before its commit it is undone, after it done, and a worker of the database or `failed
 * resume` goes on from there. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/failed.h"

#define WAITS_MAX 12 /* of five seconds: for batches of the partition, and for others who run steps of the same job */

static bool is_retry(const json_t *job) {
  return strcmp(txb_failed_text(job, "verb"), "retry") == 0;
}

static void show_progress(const struct txb_cli *cli, const json_t *job) {
  char text[120];
  (void)snprintf(text, sizeof(text),
                 "job %" JSON_INTEGER_FORMAT ": %s %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT,
                 txb_failed_integer(job, "number"), is_retry(job) ? "retried" : "discarded",
                 txb_failed_integer(job, "done"), txb_failed_integer(job, "messages"));
  txb_progress(cli, text);
}

/* ---- what became of it ------------------------------------------------------------------------------------ */

static void print_json(const struct txb_cli *cli, const json_t *job) {
  json_t *document =
      json_pack("{s:s, s:I, s:s, s:I, s:I, s:I, s:O}", "action", is_retry(job) ? "failed retry" : "failed discard",
                "job", txb_failed_integer(job, "number"), "state", txb_failed_text(job, "state"), "matched",
                txb_failed_integer(job, "messages"), "changed", txb_failed_integer(job, "done"), "skipped",
                txb_failed_integer(job, "skipped"), "refused", json_object_get(job, "refused"));
  txb_failed_print_json(cli, document);
  json_decref(document);
}

static void report(const struct txb_cli *cli, const json_t *job) {
  if (cli->output == TXB_OUTPUT_TEXT)
    txb_print("%s %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT " messages\n",
              is_retry(job) ? "retried" : "discarded", txb_failed_integer(job, "done"),
              txb_failed_integer(job, "messages"));
  else
    print_json(cli, job);
  txb_failed_say_refused(json_object_get(job, "refused"), (size_t)txb_failed_integer(job, "skipped"));
}

/* The job is there still: whoever reads this must know that it may go on by itself. */
static void say_how_it_goes_on(const struct txb_cli *cli, int64_t number) {
  struct txb_buffer line;
  txb_buffer_init(&line);
  txb_failed_called(cli, "failed resume", number, &line);
  txb_say("job %" PRId64 " is kept: a worker goes on with it, or `%s`", number, txb_buffer_text(&line));
  txb_buffer_fini(&line);
}

static int code_of(const json_t *job) {
  bool cancelled = strcmp(txb_failed_text(job, "state"), "cancelled") == 0;
  if (cancelled)
    txb_say("job %" JSON_INTEGER_FORMAT " was cancelled by %s", txb_failed_integer(job, "number"),
            txb_failed_text(job, "state_by"));
  return cancelled || txb_failed_integer(job, "skipped") > 0 ? TXB_EXIT_FAILED : TXB_EXIT_DONE;
}

/* ---- running it ------------------------------------------------------------------------------------------- */

/* *job_out: as it was after the last step that went well; NULL: none did. */
static enum txb_rc run_steps(const struct txb_cli *cli, struct txb_pg *pg, int64_t number, json_t **job_out,
                             struct txb_error *err) {
  enum txb_rc rc = TXB_OK;
  bool running = true;
  int waits = 0;
  *job_out = NULL;
  while (rc == TXB_OK && running) {
    json_t *job = NULL;
    rc = txb_failed_job_step(pg, number, &job, err);
    if (rc != TXB_OK && strcmp(err->sqlstate, "55P03") == 0 && ++waits < WAITS_MAX) {
      rc = TXB_OK;
      continue;
    }
    if (rc != TXB_OK)
      break;
    waits = 0;
    json_decref(*job_out);
    *job_out = job;
    running = strcmp(txb_failed_text(job, "state"), "running") == 0;
    if (running)
      show_progress(cli, job);
  }
  txb_progress(cli, NULL);
  return rc;
}

enum txb_rc txb_failed_job_run(const struct txb_cli *cli, struct txb_pg *pg, int64_t number, int *code_out,
                               struct txb_error *err) {
  json_t *job;
  enum txb_rc rc = run_steps(cli, pg, number, &job, err);
  if (job != NULL)
    report(cli, job);
  if (rc == TXB_OK)
    *code_out = code_of(job);
  else if (strcmp(err->sqlstate, "P0002") != 0)
    say_how_it_goes_on(cli, number);
  json_decref(job);
  return rc;
}

static void print_begun(const struct txb_cli *cli, int64_t number, int64_t messages, bool detached) {
  struct txb_buffer line;
  txb_buffer_init(&line);
  txb_failed_called(cli, "failed cancel", number, &line);
  txb_print("job %" PRId64 ": %" PRId64 " messages; %s. Stop it: %s --reason TEXT\n", number, messages,
            detached ? "workers run it" : "if this command ends early, a worker goes on with it",
            txb_buffer_text(&line));
  txb_buffer_fini(&line);
  (void)txb_print_flush();
}

enum txb_rc txb_failed_job_begin(const struct txb_cli *cli, const struct txb_failed_choice *choice,
                                 const struct txb_failed_decision *d, int *code_out, struct txb_error *err) {
  bool detached = txb_args_has(&cli->args, "detach");
  int64_t number, messages;
  TXB_TRY(txb_failed_job_start(choice->pg, d, &number, &messages, err));
  if (cli->output == TXB_OUTPUT_TEXT) {
    print_begun(cli, number, messages, detached);
  } else if (detached) {
    json_t *document = json_pack("{s:s, s:I, s:s, s:I}", "action", cli->args.command->name, "job", (json_int_t)number,
                                 "state", "running", "matched", (json_int_t)messages);
    txb_failed_print_json(cli, document);
    json_decref(document);
  }
  *code_out = TXB_EXIT_DONE;
  return detached ? TXB_OK : txb_failed_job_run(cli, choice->pg, number, code_out, err);
}

/* ---- a list ----------------------------------------------------------------------------------------------- */

void txb_failed_job_print_table(const struct txb_cli *cli, const json_t *jobs, int indent) {
  static const struct txb_column columns[] = {{"JOB", TXB_RIGHT},     {"STATE", TXB_LEFT},  {"WHAT", TXB_LEFT},
                                              {"GROUP", TXB_LEFT},    {"MEANT", TXB_RIGHT}, {"CHANGED", TXB_RIGHT},
                                              {"SKIPPED", TXB_RIGHT}, {"LEFT", TXB_RIGHT},  {"AGE", TXB_RIGHT},
                                              {"ROLE", TXB_LEFT},     {"PERSON", TXB_LEFT}, {"REASON", TXB_LEFT}};
  struct txb_table table;
  const json_t *job;
  char age[24];
  size_t i;
  txb_table_init(&table, columns, TXB_ARRAY_SIZE(columns));
  json_array_foreach(jobs, i, job) {
    txb_failed_cell(&table, job, "number", 0);
    txb_failed_cell(&table, job, "state", 0);
    txb_failed_cell(&table, job, "verb", 0);
    txb_failed_cell(&table, job, "group_name", 24);
    txb_failed_cell(&table, job, "messages", 0);
    txb_failed_cell(&table, job, "done", 0);
    txb_failed_cell(&table, job, "skipped", 0);
    txb_failed_cell(&table, job, "left", 0);
    txb_format_age(txb_failed_integer(job, "age_ms"), age);
    txb_table_cell(&table, age);
    txb_failed_cell(&table, job, "created_by", 24);
    txb_failed_cell(&table, job, "os_user", 24);
    txb_failed_cell(&table, job, "reason", 40);
  }
  txb_table_print(&table, cli, indent);
  txb_table_fini(&table);
}
