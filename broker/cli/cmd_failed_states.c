/* failed states: what may become of a failed message, printed from the table that decides it (consumer/failed_core.c).
 * Changes nothing and connects to nothing. */
#include "broker/cli/states.h"
#include "consumer/failed_core.h"

const struct txb_option txb_failed_states_options[] = {
    {.name = "reference", .help = "As the Markdown page docs/reference-failed-states.md, with a diagram."},
    {.name = NULL},
};

static const char *name(int state) {
  return state == TXB_FAILED_NONE ? NULL : txb_failed_state_name((enum txb_failed_state)state);
}

static bool is_open(int state) {
  return txb_failed_is_open((enum txb_failed_state)state);
}

static struct txb_states_line line(size_t index) {
  const struct txb_failed_transition *t = &txb_failed_transitions[index];
  return (struct txb_states_line){name((int)t->from), txb_failed_event_name(t->event), name((int)t->to), t->why};
}

int txb_cmd_failed_states(struct txb_cli *cli) {
  const struct txb_states states = {
      .of = "a failed message",
      .command = "failed states",
      .source = "consumer/failed_core.c",
      .see = "[guides/failed-messages.md](guides/failed-messages.md) says what they mean and what to do.",
      .count = TXB_FAILED_STATES,
      .name = name,
      .is_open = is_open,
      .line_count = txb_failed_transitions_count,
      .line = line,
  };
  return txb_states_print(cli, &states);
}
