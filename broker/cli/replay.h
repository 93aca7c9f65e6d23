/* What the commands about replay jobs share: which job or which range, what both databases answer, how a job looks.
 *
 *   replay_options.c  the options, for the table
 *   replay_wish.c     what plan and start were asked for, as far as the command line and the configuration tell
 *   replay_range.c    the numbers of the source that this means
 *   replay_topics.c   the offsets of Kafka that this means
 *   replay_check.c    what stands against it
 *   replay_store.c    what the consuming database is asked
 *   replay_print.c    a job, its lanes, its progress
 */
#ifndef TXB_BROKER_CLI_REPLAY_H
#define TXB_BROKER_CLI_REPLAY_H

#include "broker/cli/failed.h"
#include "common/event.h"

extern const struct txb_option txb_replay_plan_options[], txb_replay_start_options[], txb_replay_list_options[],
    txb_replay_show_options[], txb_replay_decide_options[], txb_replay_cancel_options[], txb_replay_rate_options[];

/* ---- what is asked for (replay_wish.c) -------------------------------------------------------------------- */
/* Where a range begins or ends: a number, a time (its text, for the server to read), or the very end of the outbox. */
struct txb_replay_bound {
  const char *text; /* as it was given; NULL: not at all */
  int64_t seq;      /* 0: it is no number of an outbox */
  bool is_time, is_number;
};

struct txb_replay_wish {
  const char *group, *source, *name, *reason;
  const char *consumer_uri, *source_uri; /* the group's database, the source's */
  const char *to_topic;                  /* NULL: the group's handler */
  bool kafka;                            /* the topics themselves are read: there is no source */
  int32_t *partitions;                   /* with kafka: only these, each once; none: all */
  size_t partition_count;
  const char **topics; /* each once; the array is owned */
  size_t topic_count;
  const struct txb_args *args; /* of which keys and types are taken */
  struct txb_replay_bound from, to;
  bool forced, then_live, dry_run, yes;
  long long rate_max; /* 0: no limit */
};
/* Reads and checks all that can be checked without a server. fini in every case. TXB_REFUSED (usage). */
enum txb_rc txb_replay_wish_read(const struct txb_cli *cli, struct txb_replay_wish *out,
                                 struct txb_error *err) TXB_MUST_CHECK;
void txb_replay_wish_fini(struct txb_replay_wish *wish);
bool txb_replay_wish_has_partition(const struct txb_replay_wish *wish, int32_t partition);
/* The nth value of --key or --type; NULL: no more. */
const char *txb_replay_wish_nth(const struct txb_replay_wish *wish, const char *option, size_t n);

/* ---- the range (replay_range.c) --------------------------------------------------------------------------- */
struct txb_replay_range {
  int64_t seq_from, seq_to; /* the second one is not in it */
  int64_t time_from_us, time_to_us;
  bool has_time_from, has_time_to;
  int64_t watermark;
  bool whole;             /* nothing of the outbox was dropped yet */
  int64_t lowest_time_us; /* of the oldest intent that is there */
  int64_t waits_from;     /* the lowest number that waits for a decision; 0: none */
};
/* What the wish means in the source's outbox, as it is now. TXB_REFUSED (usage): nothing lies in it, or it begins before
 * what is still there. */
enum txb_rc txb_replay_range_read(struct txb_pg *source, const struct txb_replay_wish *wish,
                                  struct txb_replay_range *out, struct txb_error *err) TXB_MUST_CHECK;
/* The same for a job that is there already: what the wish does not give as a number is taken from it. */
enum txb_rc txb_replay_range_again(struct txb_pg *source, const struct txb_replay_wish *wish, int64_t seq_from,
                                   int64_t seq_to, struct txb_replay_range *out, struct txb_error *err) TXB_MUST_CHECK;
/* The times of the wish, as a server reads them: all that the range of a wish for Kafka says of itself. */
enum txb_rc txb_replay_range_times(struct txb_pg *pg, const struct txb_replay_wish *wish, struct txb_replay_range *out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* Since when the inbox remembers; 0: since ever. */
enum txb_rc txb_replay_horizon(struct txb_pg *consumer, int64_t *wall_us_out, struct txb_error *err) TXB_MUST_CHECK;
/* When the first intent that is meant was written; 0: the range holds none. */
enum txb_rc txb_replay_range_first(struct txb_pg *source, const struct txb_replay_wish *wish,
                                   const struct txb_replay_range *range, int64_t *wall_us_out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* A plain replay leaves out what the inbox knows, so it must not begin before the inbox does: TXB_REFUSED (usage). */
enum txb_rc txb_replay_range_remembered(struct txb_pg *consumer, struct txb_pg *source,
                                        const struct txb_replay_wish *wish, const struct txb_replay_range *range,
                                        struct txb_error *err) TXB_MUST_CHECK;
/* A copy that is older than an inbox remembers is refused by its group: says so where the range begins before that. */
enum txb_rc txb_replay_range_warn(struct txb_pg *consumer, struct txb_pg *source, const struct txb_replay_wish *wish,
                                  const struct txb_replay_range *range, struct txb_error *err) TXB_MUST_CHECK;
void txb_replay_warn_old(int64_t horizon_us);
void txb_replay_topics_param(struct txb_pg_params *params, const struct txb_replay_wish *wish);
void txb_replay_number_param(struct txb_pg_params *params, bool has, int64_t number);
/* Adds keys and types: empty arrays without any. */
void txb_replay_filter_params(struct txb_pg_params *params, const struct txb_replay_wish *wish);
/* Adds what every question about the range takes: $1 source, $2 $3 numbers, $4 topics, $5 keys, $6 types, $7 $8 times. Without keys
 * or types their arrays are empty. */
void txb_replay_range_params(struct txb_pg_params *params, const struct txb_replay_wish *wish,
                             const struct txb_replay_range *range);

/* ---- topics of Kafka (replay_topics.c) -------------------------------------------------------------------- */
struct txb_replay_lane {
  char *topic; /* owned */
  int32_t partition;
  int64_t from, to; /* offsets; the second one is not in it */
  int64_t first;    /* offset of the first message there; -1: not known, or there is none */
  struct txb_uuid first_id;
};
struct txb_replay_lanes {
  struct txb_replay_lane *items; /* those that hold something, by topic */
  size_t count, capacity;
  char *cluster_id;
};
/* What the wish means in Kafka, as it is now; `times` are those of the wish. TXB_REFUSED (usage): there is no such topic
 * or partition, nothing lies in the range, or it begins before what is still there. */
enum txb_rc txb_replay_topics_read(const struct txb_cli *cli, const struct txb_replay_wish *wish,
                                   const struct txb_replay_range *times, struct txb_replay_lanes *out,
                                   struct txb_error *err) TXB_MUST_CHECK;
/* The same for a job that is there already: what the wish does not give as an offset is taken from it. */
enum txb_rc txb_replay_topics_again(struct txb_pg *consumer, int64_t number, const struct txb_replay_wish *wish,
                                    struct txb_replay_lanes *out, struct txb_error *err) TXB_MUST_CHECK;
void txb_replay_lanes_fini(struct txb_replay_lanes *lanes);
int64_t txb_replay_lanes_span(const struct txb_replay_lanes *lanes);
/* Reads what the lanes hold, those of a topic side by side: `visit` gets each record (borrowed) and the number of its
 * lane, and sets *more to false when it has seen enough of that lane. */
typedef enum txb_rc (*txb_replay_visit)(void *arg, size_t lane, const struct txb_record *record, bool *more,
                                        struct txb_error *err);
enum txb_rc txb_replay_topics_each(const struct txb_cli *cli, const struct txb_replay_lanes *lanes,
                                   txb_replay_visit visit, void *arg, struct txb_error *err) TXB_MUST_CHECK;
/* Looks up the first message of each lane: the job notes it. */
enum txb_rc txb_replay_topics_firsts(const struct txb_cli *cli, struct txb_replay_lanes *lanes,
                                     struct txb_error *err) TXB_MUST_CHECK;
/* Whether they hold anything that is meant, after txb_replay_topics_firsts; what can't be looked at to its end may. */
enum txb_rc txb_replay_topics_any(const struct txb_cli *cli, const struct txb_replay_wish *wish,
                                  const struct txb_replay_lanes *lanes, bool *out,
                                  struct txb_error *err) TXB_MUST_CHECK;
/* Whether --key and --type mean it: bytes are compared, as lanes do. */
bool txb_replay_is_meant(const struct txb_replay_wish *wish, const struct txb_record *record,
                         const struct txb_event *event);
/* As txb_replay_range_remembered and txb_replay_range_warn, by the first message of each lane that is meant; where none
 * is among the first ones, nothing is said of that lane. */
enum txb_rc txb_replay_topics_warn(const struct txb_cli *cli, struct txb_pg *consumer,
                                   const struct txb_replay_wish *wish, const struct txb_replay_lanes *lanes,
                                   struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_replay_topics_remembered(const struct txb_cli *cli, struct txb_pg *consumer,
                                         const struct txb_replay_wish *wish, const struct txb_replay_lanes *lanes,
                                         struct txb_error *err) TXB_MUST_CHECK;

/* ---- what stands against it (replay_check.c) -------------------------------------------------------------- */
/* --to-topic must be there, so far as there are brokers to ask. TXB_REFUSED (usage). */
enum txb_rc txb_replay_check_target(const struct txb_cli *cli, const struct txb_replay_wish *wish,
                                    struct txb_error *err) TXB_MUST_CHECK;
/* For --to-topic the range of an outbox must hold something of each --topic. TXB_REFUSED (usage). */
enum txb_rc txb_replay_check_topics(struct txb_pg *source, const struct txb_replay_wish *wish,
                                    const struct txb_replay_range *range, struct txb_error *err) TXB_MUST_CHECK;
/* The range of an outbox must hold something that is meant, but for a group that goes on live. TXB_REFUSED (usage). */
enum txb_rc txb_replay_check_any(const struct txb_cli *cli, struct txb_pg *source, const struct txb_replay_wish *wish,
                                 const struct txb_replay_range *range, struct txb_error *err) TXB_MUST_CHECK;
/* Says that it holds nothing that is meant, and which options may be mistyped. Always TXB_REFUSED (usage). */
enum txb_rc txb_replay_nothing(const struct txb_replay_wish *wish, struct txb_error *err) TXB_MUST_CHECK;
/* Sets would_refuse, what `replay start` would say as things are, and remembers_since, of the inbox. nothing: the range was
 * looked at to its end, and holds nothing that is meant. */
enum txb_rc txb_replay_refusal(const struct txb_cli *cli, struct txb_pg *consumer, struct txb_pg *source,
                               const struct txb_replay_wish *wish, const struct txb_replay_range *range,
                               const struct txb_replay_lanes *lanes, bool nothing, json_t *document,
                               struct txb_error *err) TXB_MUST_CHECK;
void txb_replay_print_refusal(const json_t *document);
void txb_replay_print_forgotten(const struct txb_replay_wish *wish, const json_t *document);

/* ---- the servers (replay_store.c) ------------------------------------------------------------------------- */
/* The consuming database that a job's number belongs to: --database, that of --group, or the only one of all groups. */
enum txb_rc txb_replay_target(const struct txb_cli *cli, const char **uri_out, struct txb_error *err) TXB_MUST_CHECK;
/* The groups' databases, each once; or the one of --database or --group. */
enum txb_rc txb_replay_targets(const struct txb_cli *cli, struct txb_targets *out,
                               struct txb_error *err) TXB_MUST_CHECK;
struct txb_replay_job {
  int64_t number; /* 0: there is none */
  int64_t seq_from, seq_to;
  bool kafka; /* it has offsets instead of these */
};
/* The job of that name. */
enum txb_rc txb_replay_named(struct txb_pg *consumer, const char *name, struct txb_replay_job *out,
                             struct txb_error *err) TXB_MUST_CHECK;
/* Starts the job; *existed_out: one of that name is there and says the same. lanes: with kafka, else NULL. */
enum txb_rc txb_replay_start(struct txb_pg *consumer, const struct txb_replay_wish *wish,
                             const struct txb_replay_range *range, const struct txb_replay_lanes *lanes,
                             int64_t *number_out, bool *existed_out, struct txb_error *err) TXB_MUST_CHECK;
/* Of an outbox (lanes NULL) the four lists are empty. */
void txb_replay_lanes_params(struct txb_pg_params *params, const struct txb_replay_lanes *lanes);
/* Of these ids: adds how many the group has applied, and how many are older than its inbox remembers. */
enum txb_rc txb_replay_ask_inbox(struct txb_pg *consumer, const char *group, const struct txb_uuid *ids, size_t count,
                                 int64_t *known, int64_t *forgotten, struct txb_error *err) TXB_MUST_CHECK;
/* How often a message may be replayed into topics. */
enum txb_rc txb_replay_count_max(struct txb_pg *consumer, int32_t *out, struct txb_error *err) TXB_MUST_CHECK;
/* The keys that the group's failed messages hold in the topics of the wish: a row each. */
enum txb_rc txb_replay_held(struct txb_pg *consumer, const struct txb_replay_wish *wish, struct txb_pg_result **out,
                            struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_replay_list(struct txb_pg *consumer, int64_t after, int page, json_t **out,
                            struct txb_error *err) TXB_MUST_CHECK;
/* One job; TXB_REFUSED when there is none of that number. */
enum txb_rc txb_replay_show(struct txb_pg *consumer, int64_t number, json_t **out,
                            struct txb_error *err) TXB_MUST_CHECK;
enum txb_replay_action { TXB_REPLAY_PAUSE, TXB_REPLAY_RESUME, TXB_REPLAY_CANCEL };
enum txb_rc txb_replay_decide(struct txb_pg *consumer, enum txb_replay_action action, int64_t number,
                              const char *reason, struct txb_error *err) TXB_MUST_CHECK;
/* rate_max 0: no limit. */
enum txb_rc txb_replay_rate(struct txb_pg *consumer, int64_t number, int64_t rate_max,
                            struct txb_error *err) TXB_MUST_CHECK;
/* The source keeps what lies at or above `lo` as long as a pin is seen. */
enum txb_rc txb_replay_pin(struct txb_pg *source, const char *name, int64_t lo, const char *what,
                           struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_replay_unpin(struct txb_pg *source, const char *name, struct txb_error *err) TXB_MUST_CHECK;

/* ---- printing (replay_print.c) ---------------------------------------------------------------------------- */
/* How far the lanes of a job have come. */
struct txb_replay_progress {
  int64_t done, all; /* numbers of the outbox, or offsets, over all lanes */
  int64_t consumed;  /* messages */
  int64_t applied, duplicate, failed, moved;
  size_t lanes, lanes_done;
  size_t partitions; /* lanes that read Kafka: their numbers are offsets */
};
void txb_replay_progress_of(const json_t *job, struct txb_replay_progress *out);
/* "[#####-----]  50.0 %, 12 of 24 numbers" and, with a span, rate and time left. */
void txb_replay_progress_text(const struct txb_replay_progress *now, const struct txb_replay_progress *before,
                              int64_t span_ms, struct txb_buffer *out);
void txb_replay_print_job(const struct txb_cli *cli, const json_t *job);
void txb_replay_print_table(const struct txb_cli *cli, const json_t *jobs, int indent);
/* Whether the job has ended, done or cancelled. */
bool txb_replay_is_final(const json_t *job);
/* done, stalled, owned, waits (for a worker), or what the job is: paused, cancelled. */
const char *txb_replay_lane_state(const json_t *job, const json_t *lane);
/* "orders", or "orders[3]" of Kafka. */
void txb_replay_lane_place(const json_t *lane, struct txb_buffer *out);
void txb_replay_place_cell(struct txb_table *table, const json_t *lane);
/* The source, or "Kafka". */
void txb_replay_source_cell(struct txb_table *table, const json_t *job);
/* The lanes of a job as a table. */
void txb_replay_print_lanes(const struct txb_cli *cli, const json_t *job, int indent);

/* ---- the plan (replay_plan.c) ----------------------------------------------------------------------------- */
/* Counts what the range holds and prints it; changes nothing. */
enum txb_rc txb_replay_plan(const struct txb_cli *cli, struct txb_pg *consumer, struct txb_pg *source,
                            const struct txb_replay_wish *wish, const struct txb_replay_range *range,
                            struct txb_error *err) TXB_MUST_CHECK;
/* What the two plans share: what was asked for, without where it is read; a table of {"value", "messages"}, of `all`; a
 * line for a count that is not 0; how long it may take. */
json_t *txb_replay_plan_document(const struct txb_replay_wish *wish, const struct txb_replay_range *range);
void txb_replay_plan_counts(const struct txb_cli *cli, const json_t *rows, const char *title, json_int_t all);
void txb_replay_plan_line(const json_t *document, const char *name, const char *what);
#define TXB_REPLAY_CIRCLING "go into no topic: they were replayed so often that they may go in a circle; they fail"
void txb_replay_plan_estimate(const struct txb_replay_wish *wish, json_int_t most, json_t *document);
void txb_replay_plan_print_estimate(const struct txb_replay_wish *wish, const json_t *document, const char *side);

/* ---- the plan of topics (replay_topics_plan.c) ------------------------------------------------------------ */
/* The same from Kafka: reads the range, or as much of it as says enough. */
enum txb_rc txb_replay_topics_plan(const struct txb_cli *cli, struct txb_pg *consumer,
                                   const struct txb_replay_wish *wish, const struct txb_replay_range *times,
                                   const struct txb_replay_lanes *lanes, struct txb_error *err) TXB_MUST_CHECK;

#endif
