/* replay states: what may become of a replay job, printed from the table that decides it (consumer/job_core.c). Changes
 * nothing and connects to nothing. */
#include "broker/cli/states.h"
#include "consumer/job_core.h"

const struct txb_option txb_replay_states_options[] = {
    {.name = "reference", .help = "As the Markdown page docs/reference-job-states.md, with a diagram."},
    {.name = NULL},
};

static const char *name(int state) {
  return state == TXB_JOB_NONE ? NULL : txb_job_state_name((enum txb_job_state)state);
}

static bool is_open(int state) {
  return txb_job_is_open((enum txb_job_state)state);
}

static struct txb_states_line line(size_t index) {
  const struct txb_job_transition *t = &txb_job_transitions[index];
  return (struct txb_states_line){name((int)t->from), txb_job_event_name(t->event), name((int)t->to), t->why};
}

int txb_cmd_replay_states(struct txb_cli *cli) {
  const struct txb_states states = {
      .of = "a replay job",
      .command = "replay states",
      .source = "consumer/job_core.c",
      .count = TXB_JOB_STATES,
      .name = name,
      .is_open = is_open,
      .line_count = txb_job_transitions_count,
      .line = line,
  };
  return txb_states_print(cli, &states);
}
