/* A job that decides about many failed messages, run by the command that started it or resumes it. Each step is one
 * transaction of the server: killed before its commit it is undone, after it done, and a worker of the database or `failed
 * resume` goes on from there. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/failed.h"

#define WAITS_MAX 12 /* of five seconds: for batches of the partition, and for others who run steps of the same job */

static const struct txb_failed_words *words_of(const json_t *job) {
  static const enum txb_failed_verb verbs[] = {TXB_FAILED_RETRY, TXB_FAILED_DISCARD, TXB_FAILED_EDIT};
  for (size_t i = 0; i < TXB_ARRAY_SIZE(verbs); i++)
    if (strcmp(txb_failed_text(job, "verb"), txb_failed_words_of(verbs[i])->verb) == 0)
      return txb_failed_words_of(verbs[i]);
  return txb_failed_words_of(TXB_FAILED_COPY);
}

static void show_progress(const struct txb_cli *cli, const json_t *job) {
  char text[120];
  (void)snprintf(text, sizeof(text),
                 "job %" JSON_INTEGER_FORMAT ": %s %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT,
                 txb_failed_integer(job, "number"), words_of(job)->many, txb_failed_integer(job, "done"),
                 txb_failed_integer(job, "messages"));
  txb_progress(cli, text);
}

/* ---- what became of it ------------------------------------------------------------------------------------ */

static void print_json(const struct txb_cli *cli, const json_t *job) {
  json_t *document =
      json_pack("{s:o, s:I, s:s, s:I, s:I, s:I, s:O}", "action", json_sprintf("failed %s", words_of(job)->verb), "job",
                txb_failed_integer(job, "number"), "state", txb_failed_text(job, "state"), "matched",
                txb_failed_integer(job, "messages"), "changed", txb_failed_integer(job, "done"), "skipped",
                txb_failed_integer(job, "skipped"), "refused", json_object_get(job, "refused"));
  if (txb_failed_text(job, "to_topic") != NULL)
    (void)json_object_set(document, "to_topic", json_object_get(job, "to_topic"));
  txb_failed_print_json(cli, document);
  json_decref(document);
}

static void report(const struct txb_cli *cli, const json_t *job) {
  if (cli->output == TXB_OUTPUT_TEXT)
    txb_print("%s %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT " messages\n", words_of(job)->many,
              txb_failed_integer(job, "done"), txb_failed_integer(job, "messages"));
  else
    print_json(cli, job);
  txb_failed_say_refused(json_object_get(job, "refused"), (size_t)txb_failed_integer(job, "skipped"));
}

static void add_resume(const struct txb_cli *cli, int64_t number, struct txb_buffer *out) {
  txb_buffer_add_text(out, "`");
  txb_failed_called(cli, "failed resume", number, out);
  txb_buffer_add_text(out, "`");
}

/* The job is there still: whoever reads this must know that it may go on by itself. */
static void say_how_it_goes_on(const struct txb_cli *cli, int64_t number) {
  struct txb_buffer line;
  txb_buffer_init(&line);
  add_resume(cli, number, &line);
  txb_say("job %" PRId64 " is kept: %s goes on with it; where a worker of its group runs, that one does", number,
          txb_buffer_text(&line));
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

static void print_begun(const struct txb_cli *cli, const struct txb_failed_begun *begun, bool detached) {
  struct txb_buffer resume, cancel;
  txb_buffer_init(&resume);
  txb_buffer_init(&cancel);
  add_resume(cli, begun->number, &resume);
  txb_failed_called(cli, "failed cancel", begun->number, &cancel);
  txb_print("job %" PRId64 ": %" PRId64 " messages; ", begun->number, begun->messages);
  if (detached && begun->served)
    txb_print("workers run it");
  else if (detached)
    txb_print("no worker is there now to run it: %s does, or a worker once one is started", txb_buffer_text(&resume));
  else if (begun->served)
    txb_print("if this command ends early, a worker goes on with it");
  else
    txb_print("if this command ends early, %s goes on with it", txb_buffer_text(&resume));
  txb_print(". Stop it: %s --reason TEXT\n", txb_buffer_text(&cancel));
  txb_buffer_fini(&resume);
  txb_buffer_fini(&cancel);
  (void)txb_print_flush();
}

enum txb_rc txb_failed_job_begin(const struct txb_cli *cli, const struct txb_failed_choice *choice,
                                 const struct txb_failed_decision *d, int *code_out, struct txb_error *err) {
  bool detached = txb_args_has(&cli->args, "detach");
  struct txb_failed_begun begun;
  TXB_TRY(txb_failed_job_start(choice->pg, d, &begun, err));
  if (cli->output == TXB_OUTPUT_TEXT) {
    print_begun(cli, &begun, detached);
  } else if (detached) {
    json_t *document =
        json_pack("{s:s, s:I, s:s, s:I, s:b}", "action", cli->args.command->name, "job", (json_int_t)begun.number,
                  "state", "running", "matched", (json_int_t)begun.messages, "served", begun.served);
    if (d->to_topic != NULL)
      (void)json_object_set_new(document, "to_topic", json_string(d->to_topic));
    txb_failed_print_json(cli, document);
    json_decref(document);
  }
  *code_out = TXB_EXIT_DONE;
  return detached ? TXB_OK : txb_failed_job_run(cli, choice->pg, begun.number, code_out, err);
}

/* ---- a list ----------------------------------------------------------------------------------------------- */

void txb_failed_job_verb_cell(struct txb_table *table, const json_t *job) {
  const char *topic = txb_failed_text(job, "to_topic");
  if (topic == NULL)
    txb_failed_cell(table, job, "verb", 0);
  else
    txb_table_cellf(table, "%s to %.60s", txb_failed_text(job, "verb"), topic); /* of a topic's letters */
}

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
    txb_failed_job_verb_cell(&table, job);
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
