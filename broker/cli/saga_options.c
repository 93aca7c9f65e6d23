/* Options of the commands about sagas. */
#include "broker/cli/saga.h"

#define REASON                                                                                                         \
  { .name = "reason", .value = "TEXT", .help = "Why; it is kept with the saga and in the audit." }
#define AT_EVENT                                                                                                       \
  {                                                                                                                    \
    .name = "at", .value = "N",                                                                                        \
    .help = "The number of the last event that you have seen (saga show): refused when more has happened since."       \
  }
#define END                                                                                                            \
  { .name = NULL }

const struct txb_option txb_saga_deploy_options[] = {
    {.name = "format",
     .value = "FORMAT",
     .choices = "text|dot|mermaid",
     .help = "How the plan is drawn (default text)."},
    {.name = "dry-run",
     .help =
         "Keeps nothing: checks the file and draws it. Asks brokers and database if they are given, as without it."},
    END,
};

#define WAIT_HELP "Waits so long for the end: 500ms, 5s, 2m."
const struct txb_option txb_saga_start_options[] = {
    {.name = "input", .letter = 'i', .value = "JSON", .help = "The input (default {})."},
    {.name = "input-file", .value = "FILE", .help = "The input from a file, - for standard input."},
    {.name = "key",
     .letter = 'k',
     .value = "KEY",
     .help = "A repeated start with the same key gives the first saga's id."},
    {.name = "deadline", .value = "TIME", .help = "Turns back when it takes longer: 30s, 5m, 2h."},
    {.name = "reply-topic", .value = "TOPIC", .help = "Where its end is told."},
    {.name = "coordinator",
     .value = "TOPIC",
     .help = "The topic of a coordinator in another database: the start travels through this one's outbox."},
    {.name = "wait", .value = "TIME", .help = WAIT_HELP},
    END,
};

const struct txb_option txb_saga_wait_options[] = {
    {.name = "timeout", .value = "TIME", .help = WAIT_HELP " Default: 1m."},
    END,
};

const struct txb_option txb_saga_list_options[] = {
    {.name = "state",
     .value = "STATE",
     .choices = "running|waiting|stuck|completed|compensated|refused",
     .help = "Only those. waiting: for a lock. stuck: a person must decide about a step."},
    {.name = "name", .value = "NAME", .help = "Only sagas of that name."},
    {.name = "key", .letter = 'k', .value = "KEY", .help = "Only those started with that key."},
    {.name = "parent", .value = "ID", .help = "Only the sagas that are steps of this one."},
    {.name = "before", .value = "TIME", .help = "Only those started before, as the last line of a page says."},
    {.name = "limit", .value = "N", .help = "At most so many (default 50)."},
    {.name = "count", .help = "Only how many are in each state."},
    {.name = "definitions", .help = "What is deployed instead, and how many run on each version."},
    END,
};

const struct txb_option txb_saga_show_options[] = {
    {.name = "follow", .help = "Goes on until it has ended; Ctrl-C ends only the watching."},
    {.name = "format",
     .value = "FORMAT",
     .choices = "text|dot|mermaid",
     .help = "Only its drawing, with the states of its steps."},
    END,
};

const struct txb_option txb_saga_retry_options[] = {REASON, AT_EVENT, END};
const struct txb_option txb_saga_skip_options[] = {REASON, AT_EVENT, END};
const struct txb_option txb_saga_edit_options[] = {
    {.name = "payload-file", .value = "FILE", .help = "The new payload, JSON, from a file, - for standard input."},
    REASON,
    AT_EVENT,
    END,
};
const struct txb_option txb_saga_mark_options[] = {
    {.name = "done", .help = "It took effect; of an action that can't succeed: it is not needed."},
    {.name = "undone", .help = "It has no effect, or not any more."},
    REASON,
    AT_EVENT,
    END,
};
const struct txb_option txb_saga_cancel_options[] = {REASON, AT_EVENT, END};

#define REFUSE(err, ...) TXB_FAIL_FROM((err), TXB_REFUSED, TXB_ORIGIN_USAGE, __VA_ARGS__)

enum txb_rc txb_saga_json_check(const struct txb_buffer *text, const char *what, struct txb_error *err) {
  json_error_t why;
  if (text->size == 0)
    return REFUSE(err, "the %s is empty: it must be JSON, be it {}", what);
  json_t *value = json_loadb(text->data, text->size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
  if (value == NULL)
    return REFUSE(err, "the %s is no JSON: line %d, column %d: %.200s", what, why.line, why.column, why.text);
  json_decref(value);
  return TXB_OK;
}
