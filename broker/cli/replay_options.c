/* The options of the commands about replay jobs; those that say what is replayed are the same for plan and start. */
#include "broker/cli/replay.h"

/* clang-format off */
#define WISH_OPTIONS                                                                                                   \
    {.name = "group", .letter = 'g', .value = "GROUP", .help = "The consumer group that the messages go to."},         \
    {.name = "source", .value = "SOURCE",                                                                              \
     .help = "The source whose outbox is read (default: the only one of the configuration)."},                         \
    {.name = "kafka",                                                                                                  \
     .help = "Reads the topics from Kafka itself, whatever produced them, not from a source's outbox."},                \
    {.name = "partition", .letter = 'p', .value = "N", .many = true,                                                   \
     .help = "With --kafka: only this partition of each topic."},                                                      \
    {.name = "to-topic", .value = "TOPIC",                                                                             \
     .help = "Writes the messages to this topic, through the outbox of the group's database, instead of running the "  \
             "group's handler."},                                                                                      \
    {.name = "topic", .letter = 't', .value = "TOPIC", .many = true,                                                   \
     .help = "Only this topic (default: all topics of the group in the configuration)."},                              \
    {.name = "key", .letter = 'k', .value = "KEY", .many = true, .help = "Only messages of this key."},                \
    {.name = "type", .value = "TYPE", .many = true, .help = "Only messages of this CloudEvents type."},                \
    {.name = "from", .value = "WHERE", .suggest = "beginning",                                                         \
     .help = "The first one: a time (2026-01-31T12:00:00Z), a number of the outbox (with --kafka: an offset, of "      \
             "one --partition), or beginning (default)."},                                                             \
    {.name = "to", .value = "WHERE", .suggest = "now",                                                                 \
     .help = "The end, itself left out: a time, a number of the outbox (with --kafka: an offset), or now (default)."}, \
    {.name = "name", .value = "NAME",                                                                                  \
     .help = "A name of your own: the same command again finds this job and starts no second one."},                   \
    {.name = "force", .letter = 'f',                                                                                   \
     .help = "Also what was applied already is applied again, once in this job; wants --reason."},                     \
    {.name = "then-live",                                                                                              \
     .help = "For a new group: replays all there is, and goes on with what is new, without a gap."},                   \
    {.name = "rate", .value = "N", .help = "At most so many messages a second, 1 to 1000000000, all topics together; see `replay rate`."},      \
    {.name = "reason", .letter = 'r', .value = "TEXT", .help = "Why, for the job and the audit."}
#define OF_GROUP {.name = "group", .letter = 'g', .value = "GROUP", .help = "In the database of this group."}
/* clang-format on */

const struct txb_option txb_replay_plan_options[] = {WISH_OPTIONS, {.name = NULL}};

const struct txb_option txb_replay_start_options[] = {
    WISH_OPTIONS,
    {.name = "dry-run", .help = "Only shows what would be replayed, as `replay plan` does."},
    {.name = "yes", .letter = 'y', .help = "Does not ask before it starts."},
    {.name = NULL},
};

const struct txb_option txb_replay_list_options[] = {
    OF_GROUP,
    {.name = "limit", .letter = 'n', .value = "N", .help = "At most so many jobs, 1 to 1000 (default 50)."},
    {.name = "after", .value = "NUMBER", .help = "Goes on below this job: the last one of the page before."},
    {.name = NULL},
};

const struct txb_option txb_replay_show_options[] = {
    OF_GROUP,
    {.name = "follow", .letter = 'f', .help = "Goes on until the job has ended."},
    {.name = NULL},
};

const struct txb_option txb_replay_decide_options[] = {
    OF_GROUP,
    {.name = "reason", .letter = 'r', .value = "TEXT", .help = "Why, for the audit."},
    {.name = NULL},
};

const struct txb_option txb_replay_cancel_options[] = {
    OF_GROUP,
    {.name = "reason", .letter = 'r', .value = "TEXT", .help = "Why, for the job and the audit; it must be given."},
    {.name = NULL},
};

const struct txb_option txb_replay_rate_options[] = {OF_GROUP, {.name = NULL}};
