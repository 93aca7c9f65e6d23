/* saga states: what may become of a saga's step, printed from the table that decides it (broker/saga/saga_core.c). Changes
 * nothing and connects to nothing. */
#include <stdio.h>

#include "broker/cli/saga.h"
#include "broker/cli/states.h"

const struct txb_option txb_saga_states_options[] = {
    {.name = "reference", .help = "As the Markdown page docs/reference-saga-states.md, with a diagram."},
    {.name = NULL},
};

enum { ALL_KINDS = (1 << TXB_SAGA_KINDS) - 1, EVENT_SIZE = 80 };

static const char *name(int state) {
  return txb_saga_step_state_name((enum txb_saga_step_state)state);
}

/* Something leads out of it. */
static bool is_open(int state) {
  for (size_t i = 0; i < txb_saga_transitions_count; i++)
    if ((int)txb_saga_transitions[i].from == state)
      return true;
  return false;
}

/* "refused (retriable, attempts left)" */
static const char *event_of(const struct txb_saga_transition *t) {
  static const char *const kinds[TXB_SAGA_KINDS] = {"compensatable", "pivot", "retriable"};
  static char text[EVENT_SIZE];
  int used = snprintf(text, sizeof(text), "%s", txb_saga_step_event_name(t->event));
  const char *separator = " (";
  for (int k = 0; k < TXB_SAGA_KINDS && t->kinds != ALL_KINDS; k++)
    if ((t->kinds & (1U << k)) != 0) {
      used += snprintf(text + used, sizeof(text) - (size_t)used, "%s%s", separator, kinds[k]);
      separator = ", ";
    }
  if (t->attempts != TXB_SAGA_ANY) {
    used += snprintf(text + used, sizeof(text) - (size_t)used, "%sattempts %s", separator,
                     t->attempts == TXB_SAGA_LEFT ? "left" : "over");
    separator = ", ";
  }
  if (separator[0] == ',')
    (void)snprintf(text + used, sizeof(text) - (size_t)used, ")");
  return text;
}

static struct txb_states_line line(size_t index) {
  const struct txb_saga_transition *t = &txb_saga_transitions[index];
  return (struct txb_states_line){name((int)t->from), event_of(t), name((int)t->to), t->why};
}

int txb_cmd_saga_states(struct txb_cli *cli) {
  const struct txb_states states = {
      .of = "a saga's step",
      .command = "saga states",
      .source = "broker/saga/saga_core.c",
      .see = "[guides/sagas.md](guides/sagas.md) says what they mean and what to do.",
      .count = TXB_STEP_STATES,
      .name = name,
      .is_open = is_open,
      .line_count = txb_saga_transitions_count,
      .line = line,
  };
  return txb_states_print(cli, &states);
}
