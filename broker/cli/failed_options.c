/* The options of the commands about failed messages; the filter's are the same for all that take one. */
#include "broker/cli/failed.h"

/* clang-format off */
#define FILTER_OPTIONS                                                                                                 \
    {.name = "state", .value = "STATE", .many = true,                                                                  \
     .choices = "retrying|held|dead|resolved|discarded|open|any", .help = "Those in this state."},                     \
    {.name = "group", .letter = 'g', .value = "GROUP", .help = "Those of this consumer group, in its database."},      \
    {.name = "source", .value = "SOURCE", .help = "Those of this source: intents that could not be published."},       \
    {.name = "topic", .letter = 't', .value = "TOPIC", .help = "Those of this topic."},                                \
    {.name = "partition", .value = "N", .help = "Those of this partition."},                                           \
    {.name = "key", .letter = 'k', .value = "KEY",                                                                     \
     .help = "Those of this key; one that is not text as \\x and hexadecimal digits."},                                \
    {.name = "type", .value = "TYPE", .help = "Those of this CloudEvents type."},                                      \
    {.name = "id", .value = "UUID", .help = "The one with this message id."},                                          \
    {.name = "error-group", .letter = 'e', .value = "GROUP",                                                           \
     .help = "Those with equal errors: the eight digits that list prints, or the whole text."},                        \
    {.name = "error-class", .value = "CLASS",                                                                          \
     .suggest = "error|timeout|retry|refuse|dead|crash|conflict", .help = "Those whose last attempt ended so."},       \
    {.name = "text", .value = "TEXT", .help = "Those whose error holds this text."},                                   \
    {.name = "older-than", .value = "TIME", .help = "Those that failed first before this: 90s, 30min, 2h, 3d."},       \
    {.name = "newer-than", .value = "TIME", .help = "Those that failed first since then."}
#define DECISION_OPTIONS                                                                                               \
    {.name = "dry-run", .help = "Only shows what would be done: counts, also of what can't be, and the first ten."},                               \
    {.name = "yes", .letter = 'y', .help = "Does not ask before it changes more than one message."}
#define JOB_OPTIONS                                                                                                    \
    {.name = "detach",                                                                                                 \
     .help = "Only starts a job, for the workers of that database, or for `failed resume`."}
#define DATABASE_OPTIONS                                                                                               \
    {.name = "group", .letter = 'g', .value = "GROUP", .help = "In the database of this group."},                      \
    {.name = "source", .value = "SOURCE", .help = "In the database of this source."}
/* clang-format on */

const struct txb_option txb_failed_list_options[] = {
    FILTER_OPTIONS,
    {.name = "group-by",
     .value = "WHAT",
     .choices = "error|type|topic|key|state|group|source",
     .help = "Counts instead of messages."},
    {.name = "sort",
     .value = "ORDER",
     .choices = "oldest|newest|changed|due|attempts",
     .help = "The order of the list (default: oldest)."},
    {.name = "limit", .letter = 'n', .value = "N", .help = "At most so many lines, 1 to 10000 (default 50)."},
    {.name = "after", .value = "NUMBER", .help = "Goes on after this message: the last one of the page before."},
    {.name = NULL},
};

const struct txb_option txb_failed_show_options[] = {
    DATABASE_OPTIONS,
    {.name = NULL},
};

const struct txb_option txb_failed_retry_options[] = {
    FILTER_OPTIONS,
    DECISION_OPTIONS,
    {.name = "reason", .letter = 'r', .value = "TEXT", .help = "Why, for history and audit."},
    JOB_OPTIONS,
    {.name = NULL},
};

const struct txb_option txb_failed_discard_options[] = {
    FILTER_OPTIONS,
    DECISION_OPTIONS,
    {.name = "reason", .letter = 'r', .value = "TEXT", .help = "Why, for history and audit; it must be given."},
    JOB_OPTIONS,
    {.name = NULL},
};

const struct txb_option txb_failed_edit_options[] = {
    FILTER_OPTIONS,
    DECISION_OPTIONS,
    {.name = "payload-file", .value = "FILE", .help = "The new payload from a file, - for standard input."},
    {.name = "set-header",
     .letter = 'H',
     .value = "NAME=VALUE",
     .many = true,
     .help = "Sets a header; the others stay."},
    {.name = "unset-header", .value = "NAME", .many = true, .help = "Takes a header away."},
    {.name = "content-type", .value = "TYPE", .help = "Sets the media type of the payload."},
    {.name = "reason", .letter = 'r', .value = "TEXT", .help = "Why, for history and audit."},
    JOB_OPTIONS,
    {.name = NULL},
};

const struct txb_option txb_failed_copy_options[] = {
    FILTER_OPTIONS,
    DECISION_OPTIONS,
    {.name = "to-topic", .value = "TOPIC", .help = "Where the copies go; it must be given."},
    {.name = "reason", .letter = 'r', .value = "TEXT", .help = "Why, for history and audit."},
    JOB_OPTIONS,
    {.name = NULL},
};

const struct txb_option txb_failed_jobs_options[] = {
    DATABASE_OPTIONS,
    {.name = "limit", .letter = 'n', .value = "N", .help = "At most so many jobs, 1 to 1000 (default 50)."},
    {.name = "after", .value = "NUMBER", .help = "Goes on below this job: the last one of the page before."},
    {.name = NULL},
};

const struct txb_option txb_failed_resume_options[] = {DATABASE_OPTIONS, {.name = NULL}};

const struct txb_option txb_failed_cancel_options[] = {
    DATABASE_OPTIONS,
    {.name = "reason", .letter = 'r', .value = "TEXT", .help = "Why, for the audit; it must be given."},
    {.name = NULL},
};

const struct txb_option txb_audit_list_options[] = {
    {.name = "group",
     .letter = 'g',
     .value = "GROUP",
     .help = "In the database of this group; decisions about other groups are there too."},
    {.name = "source", .value = "SOURCE", .help = "In the database of this source, likewise with all that is there."},
    {.name = "limit", .letter = 'n', .value = "N", .help = "At most so many lines, 1 to 10000 (default 50)."},
    {.name = "after", .value = "NUMBER", .help = "Goes on below this row: the last one of the page before."},
    {.name = NULL},
};
