/* The table of commands. */
#include "broker/cli/cli.h"
#include "broker/cli/replay.h"
#include "broker/cli/saga.h"
#include "broker/cli/states.h"

const struct txb_option txb_global_options[] = {
    {.name = "config", .letter = 'c', .value = "FILE", .help = "JSON configuration; also in TXB_CONFIG."},
    {.name = "set",
     .value = "KEY=VALUE",
     .many = true,
     .help = "One setting: relay.lease_ms=5000, workers.GROUP.start=latest."},
    {.name = "database",
     .letter = 'd',
     .value = "URI",
     .help = "PostgreSQL connection string: the one database to work on, also of groups that name none."},
    {.name = "brokers",
     .letter = 'b',
     .value = "LIST",
     .help = "Kafka brokers, host:port,...: the setting kafka.brokers."},
    {.name = "output",
     .letter = 'o',
     .value = "FORMAT",
     .choices = "text|json|jsonl",
     .help = "How results are printed."},
    {.name = "help", .letter = 'h', .help = "This help."},
    {.name = "version", .help = "The version."},
    {.name = NULL},
};

static const struct txb_option init_options[] = {
    {.name = "role",
     .value = "USER=ROLE",
     .many = true,
     .help = "Grants a group role (txb_app, txb_relay, txb_worker, txb_admin, txb_reader) to a user that exists: "
             "--role shop=txb_app."},
    {.name = NULL},
};

static const struct txb_option doctor_options[] = {
    {.name = "timeout", .value = "SECONDS", .help = "How long each server may take to answer (default 5)."},
    {.name = NULL},
};

static const struct txb_option status_options[] = {
    {.name = "timeout", .value = "SECONDS", .help = "How long each server may take to answer (default 5)."},
    {.name = NULL},
};

static const struct txb_option config_options[] = {
    {.name = "check", .help = "Only says whether the configuration is right."},
    {.name = "keys", .help = "All settings with their meaning, limits and defaults."},
    {.name = "sample", .help = "A configuration to begin with."},
    {.name = "reference", .help = "All settings as the Markdown page docs/reference-settings.md."},
    {.name = NULL},
};

static const struct txb_option publish_options[] = {
    {.name = "topic", .letter = 't', .value = "TOPIC", .help = "Kafka topic."},
    {.name = "key", .letter = 'k', .value = "KEY", .help = "Key: messages of one key keep their order."},
    {.name = "type", .value = "TYPE", .help = "CloudEvents type, as in transfer.made."},
    {.name = "payload",
     .letter = 'p',
     .value = "TEXT",
     .help = "The payload; without it and --payload-file it is read from standard input, less a newline at the end."},
    {.name = "payload-file", .value = "FILE", .help = "The payload from a file, - for standard input."},
    {.name = "no-payload", .help = "A message without a value."},
    {.name = "content-type", .value = "TYPE", .help = "Default application/json: the payload must then be JSON."},
    {.name = "header", .letter = 'H', .value = "NAME=VALUE", .many = true, .help = "A header."},
    {.name = "id", .value = "UUID", .help = "The id, a UUIDv7; default: a new one."},
    {.name = "not-before", .value = "TIME", .help = "Not published before this time: RFC 3339, or +SECONDS from now."},
    {.name = "strict-order",
     .help = "Waits for other transactions that publish to this topic and key, so that order is that of commits."},
    {.name = "jsonl",
     .help = "Reads intents from standard input, one JSON object a line, in one transaction: all of them or none."},
    {.name = NULL},
};

static const struct txb_option tail_options[] = {
    {.name = "from",
     .value = "POSITION",
     .suggest = "beginning|end",
     .help =
         "beginning, end (and then waits for more), or an offset, the same in every partition (default: beginning)."},
    {.name = "partition", .value = "N", .help = "Only this partition."},
    {.name = "count", .letter = 'n', .value = "N", .help = "Ends after so many messages."},
    {.name = "follow",
     .letter = 'f',
     .help = "Goes on waiting for new messages; without it the command ends at the end of the topic."},
    {.name = NULL},
};

static const struct txb_option role_options[] = {
    {.name = "exit-when-idle",
     .help = "Ends once there is nothing more to do. A relay that stands by is not idle: it waits for the lease."},
    {.name = NULL},
};

static const struct txb_option dev_options[] = {
    {.name = "data",
     .value = "DIR",
     .help = "Keeps the database in this directory; without it everything is private and temporary."},
    {.name = "port", .value = "PORT", .help = "TCP port of PostgreSQL on 127.0.0.1 (default: a free one)."},
    {.name = NULL},
};

static const struct txb_option demo_options[] = {
    {.name = "transfers", .value = "N", .help = "How many transfers are made (default 2000)."},
    {.name = "trips",
     .value = "N",
     .help = "demo saga: how many trips are begun, of which one in ten rolls back (default 500)."},
    {.name = "writers", .value = "N", .help = "How many connections make them at once (default 4)."},
    {.name = "kills",
     .value = "N",
     .help = "How many processes are killed with work under way, at least (default 6; demo saga 4)."},
    {.name = "seed",
     .value = "N",
     .help = "Seed of amounts, accounts and rollbacks (default: random, printed on standard error)."},
    {.name = "keep", .help = "Keeps the databases; only with --database, in a server of yours."},
    {.name = NULL},
};

const struct txb_family txb_families[] = {
    {"failed", "failed messages: list, show, retry, edit, discard, copy, jobs, resume, cancel, states"},
    {"replay", "replay jobs: plan, start, list, show, pause, resume, cancel, rate, states"},
    {"saga",
     "distributed transactions: deploy, start, wait, list, show, retry, edit, skip, mark, cancel, locks, states"},
    {"audit", "who decided what"},
    {NULL, NULL},
};

const struct txb_command txb_commands[] = {
    {.name = "init",
     .summary = "make or migrate the schema txb and its roles in a database",
     .options = init_options,
     .run = txb_cmd_init,
     .details = "Applies what is missing of the schema, makes the group roles and the first partitions. May be run "
                "again at any time, and by several at "
                "once. A schema newer than this program is refused. The user needs the right to create roles (once per "
                "server) and schemas.",
     .examples = "  txbroker init --database postgresql:///shop --role shop=txb_app\n"},
    {.name = "doctor",
     .summary = "check databases, Kafka and configuration, and say what to do",
     .options = doctor_options,
     .run = txb_cmd_doctor,
     .details = "Every check prints ok, warn or fail, what was found, and what to do about it. Exit code 1 if one "
                "fails. Changes nothing.",
     .examples = "  txbroker --config txbroker.json doctor\n  txbroker --database postgresql:///shop --brokers "
                 "127.0.0.1:9092 doctor\n"},
    {.name = "status",
     .summary = "backlog, oldest hole, lag, stalls, jobs, failed messages",
     .options = status_options,
     .run = txb_cmd_status,
     .details = "Per source: backlog, position, the oldest hole and the sessions that may fill it, who holds the "
                "lease, what is held. Per group and "
                "partition: position, lag, and what stalls it. Replay jobs with their lanes. Per group and source: "
                "failed messages by state, what is "
                "due, the key that is held longest; jobs about failed messages that are not over. Shows what it can "
                "reach, and says what it can't.",
     .examples = "  txbroker --config txbroker.json status\n  txbroker --config txbroker.json status -o json | jq "
                 "'.sources[].backlog'\n"},
    {.name = "config",
     .summary = "show the effective settings and where each came from",
     .options = config_options,
     .run = txb_cmd_config,
     .details = "Passwords and other secrets are masked.",
     .examples = "  txbroker config --sample > txbroker.json\n  txbroker --config txbroker.json config\n"},
    {.name = "dev",
     .summary = "a private PostgreSQL and Kafka with everything running, for trying things out",
     .options = dev_options,
     .run = txb_cmd_dev,
     .details = "Starts a private PostgreSQL server and librdkafka's mock cluster on free ports of 127.0.0.1, makes a "
                "database with the schema, runs a "
                "relay, and a worker with a handler to try. Ends with Ctrl-C and leaves nothing (with "
                "--data, the database). The mock "
                "cluster forgets everything at the end and proves nothing about delivery.",
     .examples = "  txbroker dev\n  txbroker dev --data ./txb-data\n"},
    {.name = "demo",
     .operands = "[saga]",
     .operands_max = 1,
     .choices = "saga",
     .summary = "money moves between two banks while processes are killed; verified at the end",
     .options = demo_options,
     .run = txb_cmd_demo,
     .details =
         "Two databases, bank_a and bank_b, with accounts. Several connections make transfers: money leaves an "
         "account of one bank, and the intent to credit it in the other is published in the same transaction; "
         "some roll back. Relay and worker processes are killed with -9 while they have work. At the end a "
         "verifier with SQL of its own counts what was lost, doubled or out of order. With --database URI the "
         "databases are made in that server, else in a private one; with --brokers LIST real Kafka is used, else "
         "the mock cluster.\n\n"
         "demo saga: an agency, a flight, a hotel and a payment, each with a database of its own. A trip is a "
         "saga of the three; one payment in five is declined, after flight and hotel were booked. Coordinator, "
         "participants and relay are killed on the way. At the end a verifier counts the bookings that should not "
         "exist or are missing, and the money.",
     .examples = "  txbroker demo\n  txbroker demo --brokers 127.0.0.1:9092 -o json\n  txbroker demo saga\n"},
    {.name = "relay",
     .operands = "[SOURCE]...",
     .operands_max = 1000,
     .summary = "relay the outbox of the sources to Kafka",
     .options = role_options,
     .run = txb_cmd_relay,
     .details = "Runs until stopped, by Ctrl-C or SIGTERM; a second signal ends it at once. Relays all sources of the "
                "configuration, or those named. "
                "Several relays may run: one holds a source, the others stand by.",
     .examples = "  txbroker --config txbroker.json relay\n  txbroker --database postgresql:///shop --brokers "
                 "127.0.0.1:9092 relay\n"},
    {.name = "worker",
     .operands = "[GROUP]...",
     .operands_max = 1000,
     .summary = "apply messages to a database, exactly once",
     .options = role_options,
     .run = txb_cmd_worker,
     .details = "Runs until stopped, by Ctrl-C or SIGTERM; a second signal ends it at once. Works for all groups of "
                "the configuration, or those named. "
                "Several workers of a group share its partitions.",
     .examples = "  txbroker --config txbroker.json worker ledger\n"},
    {.name = "run",
     .summary = "all roles of the configuration in one process",
     .options = role_options,
     .run = txb_cmd_run,
     .details = "A relay for each source and a worker for each group, each a thread. A role that ends is started again "
                "after a growing pause.",
     .examples = "  txbroker --config txbroker.json run\n"},
    {.name = "publish",
     .summary = "write intents into the outbox",
     .options = publish_options,
     .run = txb_cmd_publish,
     .details = "Prints the id of each intent once it is committed. A line of --jsonl has topic, type and what else is "
                "wanted of key, payload (any JSON), "
                "payload_text, payload_base64, content_type, headers, id, not_before, strict_order. It takes what tail "
                "prints of messages that txbroker published; one of another producer (\"foreign\": true) may break a "
                "limit of intents: no type, a key that is not text, a header name with capitals.",
     .examples = "  txbroker -d postgresql:///shop publish --topic orders --key 42 --type order.placed --payload "
                 "'{\"total\": 7}'\n"
                 "  txbroker -d postgresql:///shop publish --jsonl < intents.jsonl\n"},
    {.name = "tail",
     .operands = "TOPIC",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "print messages of a topic as JSON lines",
     .options = tail_options,
     .run = txb_cmd_tail,
     .details = "Reads without a consumer group, so it changes nothing for others. publish --jsonl takes what it "
                "prints, except of foreign messages that break a limit of intents.",
     .examples = "  txbroker -b 127.0.0.1:9092 tail orders --from end --follow\n"},
    {.name = "failed list",
     .summary = "list failed messages, or count them by what they have in common",
     .options = txb_failed_list_options,
     .run = txb_cmd_failed_list,
     .details = "Without --state: the open ones, which are retrying, held or dead. Of several databases all are looked "
                "at. Exit code 1 if a filter matches nothing.",
     .examples = "  txbroker --config txbroker.json failed list --group-by error\n"
                 "  txbroker --config txbroker.json failed list --group ledger --state dead --older-than 2h\n"},
    {.name = "failed show",
     .operands = "NUMBER",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "show one failed message: payload, headers, attempts, what waits behind it",
     .options = txb_failed_show_options,
     .run = txb_cmd_failed_show,
     .details = "The payload is shown as text, or as hexadecimal when it is not UTF-8; control characters are made "
                "harmless. Ends with the commands that go on.",
     .examples = "  txbroker --config txbroker.json failed show 17\n"},
    {.name = "failed retry",
     .operands = "[NUMBER]...",
     .operands_max = 1000,
     .summary = "run failed messages again, now",
     .options = txb_failed_retry_options,
     .run = txb_cmd_failed_retry,
     .details = "Takes numbers or a filter, which without --state means those that are retrying or dead. They have all "
                "their attempts before them again; what is held behind them follows in order. More than 500 of a "
                "filter are a job: killed, it is finished by a worker of the group, or by `failed resume`.",
     .examples = "  txbroker --config txbroker.json failed retry 17\n"
                 "  txbroker --config txbroker.json failed retry --error-group 5ad31c80 --yes\n"},
    {.name = "failed edit",
     .operands = "[NUMBER]...",
     .operands_max = 1000,
     .summary = "put another payload or other headers in a failed message's place",
     .options = txb_failed_edit_options,
     .run = txb_cmd_failed_edit,
     .details = "Opens $VISUAL or $EDITOR, or takes --payload-file, --set-header, --unset-header and --content-type: "
                "those also for many messages, the same for each. Makes a new message with a new id in the old one's "
                "place in its key, and it is run; the old one is resolved. The limits of publish hold. More than 500 "
                "of a filter are a job, as with retry.",
     .examples = "  txbroker --config txbroker.json failed edit 17\n"
                 "  txbroker --config txbroker.json failed edit 17 --payload-file mended.json --reason 'typo in "
                 "amount'\n"
                 "  txbroker --config txbroker.json failed edit --error-group 5ad31c80 --set-header tenant=7 --yes\n"},
    {.name = "failed discard",
     .operands = "[NUMBER]...",
     .operands_max = 1000,
     .summary = "give failed messages up",
     .options = txb_failed_discard_options,
     .run = txb_cmd_failed_discard,
     .details =
         "Takes numbers or a filter. The message is never applied, also when a copy of it comes later; what is "
         "held behind it goes on. It stays in the table as discarded, with the reason. More than 500 of a filter are a "
         "job, as with retry.",
     .examples = "  txbroker --config txbroker.json failed discard 17 --reason 'test data'\n"},
    {.name = "failed copy",
     .operands = "[NUMBER]...",
     .operands_max = 1000,
     .summary = "copy failed messages to a topic, and leave them as they are",
     .options = txb_failed_copy_options,
     .run = txb_cmd_failed_copy,
     .details =
         "Takes numbers or a filter, which without --state means the open ones. The copies go through the outbox "
         "of that database, in the order of their keys, with key, payload, headers and id of the messages; its "
         "relay publishes them. The header txb-replayed counts how often a message was sent round, at most 10 "
         "times. More than 500 of a filter are a job, as with retry.",
     .examples = "  txbroker --config txbroker.json failed copy --error-group 5ad31c80 --to-topic transfers-aside "
                 "--yes\n"},
    {.name = "failed jobs",
     .summary = "list the jobs that decide about many messages",
     .options = txb_failed_jobs_options,
     .run = txb_cmd_failed_jobs,
     .details =
         "What each was given, how far it is, and how many of its messages it could not change, because somebody "
         "else had decided about them meanwhile. Of several databases all are looked at.",
     .examples = "  txbroker --config txbroker.json failed jobs\n"},
    {.name = "failed resume",
     .operands = "NUMBER",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "go on with a job whose command has ended, here and now",
     .options = txb_failed_resume_options,
     .run = txb_cmd_failed_resume,
     .details = "For a database without workers; where one of the job's group runs, it goes on by itself. Several may "
                "run one job at once: each message is decided on once.",
     .examples = "  txbroker --config txbroker.json failed resume 4\n"},
    {.name = "failed cancel",
     .operands = "NUMBER",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "end a job that decides about many messages",
     .options = txb_failed_cancel_options,
     .run = txb_cmd_failed_cancel,
     .details = "What it did stays done, the rest of its messages is left as it is. A step under way ends first.",
     .examples = "  txbroker --config txbroker.json failed cancel 4 --reason 'wrong group'\n"},
    {.name = "failed states",
     .summary = "print what may become of a failed message",
     .options = txb_failed_states_options,
     .run = txb_cmd_failed_states,
     .details = "The table of states and events that decides it. Connects to nothing.",
     .examples = "  txbroker failed states\n"},
    {.name = "replay plan",
     .summary = "show what a replay would do: counts, duplicates, how long",
     .options = txb_replay_plan_options,
     .run = txb_cmd_replay_plan,
     .details = "Takes what `replay start` takes, counts what it means, and changes nothing: messages by topic, type "
                "and key, what the group has applied already, what waits behind held keys, what is left out. With "
                "--kafka it reads the range, at most some 100,000 messages of it, and says when that is an estimate.",
     .examples =
         "  txbroker --config txbroker.json replay plan --group ledger --from 2026-01-31T12:00:00Z\n"
         "  txbroker --config txbroker.json replay plan --group ledger --kafka --topic orders --from 2026-01-31\n"
         "  txbroker --config txbroker.json replay plan --group ledger --kafka --topic orders --to-topic orders-2\n"},
    {.name = "replay start",
     .summary = "run a range of an outbox or a topic again, as a job",
     .options = txb_replay_start_options,
     .run = txb_cmd_replay_start,
     .details = "The job is kept in the group's database, and the group's running workers share it; killed, it goes on "
                "where it was. What the group has applied stays applied, unless --force is given. Messages of one key "
                "keep their order. The range ends where the source's relay is now; the source keeps it until the job "
                "has ended. With --then-live a new group gets all there is and goes on with what comes, without a gap: "
                "so a projection is built again. With --kafka the topics are read from Kafka itself, whatever produced "
                "them; a time becomes offsets when the job starts, and the range ends where the topic does now. With "
                "--to-topic the messages are written to a topic, through the outbox of the group's database, and no "
                "handler runs.",
     .examples =
         "  txbroker --config txbroker.json replay start --group ledger --from 2026-01-31T12:00:00Z --yes\n"
         "  txbroker --config txbroker.json replay start --group balances-2 --then-live --name balances-2\n"
         "  txbroker --config txbroker.json replay start --group mail --key 42 --force --reason 'lost mails'\n"
         "  txbroker --config txbroker.json replay start --group ledger --kafka --topic orders --from 2026-01-31\n"
         "  txbroker --config txbroker.json replay start --group ledger --kafka --topic orders --to-topic orders-2\n"},
    {.name = "replay list",
     .summary = "list replay jobs, the newest first",
     .options = txb_replay_list_options,
     .run = txb_cmd_replay_list,
     .details = "Of several databases all are looked at.",
     .examples = "  txbroker --config txbroker.json replay list\n"},
    {.name = "replay show",
     .operands = "NUMBER",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "show a replay job: progress, rate, results, who runs it",
     .options = txb_replay_show_options,
     .run = txb_cmd_replay_show,
     .details = "With --follow it goes on until the job has ended, and Ctrl-C ends only the watching; exit code 1 when "
                "the job was cancelled. With -o jsonl each change is a line.",
     .examples = "  txbroker --config txbroker.json replay show 7 --follow\n"},
    {.name = "replay pause",
     .operands = "NUMBER",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "let a replay job rest",
     .options = txb_replay_decide_options,
     .run = txb_cmd_replay_pause,
     .details = "Nothing of it runs until it is resumed, its retries neither. Its range stays kept.",
     .examples = "  txbroker --config txbroker.json replay pause 7\n"},
    {.name = "replay resume",
     .operands = "NUMBER",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "let a paused replay job go on",
     .options = txb_replay_decide_options,
     .run = txb_cmd_replay_resume,
     .examples = "  txbroker --config txbroker.json replay resume 7\n"},
    {.name = "replay cancel",
     .operands = "NUMBER",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "end a replay job; what it did stays done",
     .options = txb_replay_cancel_options,
     .run = txb_cmd_replay_cancel,
     .details = "It can't be resumed. What failed in it is still tried again.",
     .examples = "  txbroker --config txbroker.json replay cancel 7 --reason 'wrong group'\n"},
    {.name = "replay rate",
     .operands = "NUMBER MESSAGES|none",
     .operands_min = 2,
     .operands_max = 2,
     .summary = "change how fast a replay job may go",
     .options = txb_replay_rate_options,
     .run = txb_cmd_replay_rate,
     .details = "At most so many messages a second, 1 to 1000000000, over all its topics, or none for no limit. It "
                "takes effect within a second or two, while the job runs.",
     .examples = "  txbroker --config txbroker.json replay rate 7 500\n"},
    {.name = "replay states",
     .summary = "print what may become of a replay job",
     .options = txb_replay_states_options,
     .run = txb_cmd_replay_states,
     .details = "The table of states and events that decides it. Connects to nothing.",
     .examples = "  txbroker replay states\n"},
    {.name = "saga deploy",
     .operands = "FILE",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "check a saga's definition, draw it, and keep it",
     .options = txb_saga_deploy_options,
     .run = txb_cmd_saga_deploy,
     .details =
         "Refuses what can't be run safely, and says the line and why: a cycle, a step that can be compensated "
         "behind one that can't, an input that reads what may not be there, a topic that does not exist or is the "
         "coordinator's own, a schema with what is not checked, a step that is a saga which is not deployed, or "
         "can't be undone where it has to be. With --dry-run what there is no server for is said. A version is "
         "deployed once; running sagas stay on the version that they began with. FILE may be -.",
     .examples = "  txbroker saga deploy trip.json --dry-run\n"
                 "  txbroker --config txbroker.json saga deploy trip.json\n"},
    {.name = "saga start",
     .operands = "NAME",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "start a saga, and wait for its end if asked to",
     .options = txb_saga_start_options,
     .run = txb_cmd_saga_start,
     .details = "Prints the saga's id. With --wait its end: exit code 0 when it is completed, 1 when it is not, be it "
                "that it still runs. Services start sagas in their own transaction: SELECT txb.saga_start(...).",
     .examples = "  txbroker --config txbroker.json saga start trip --input '{\"seat\": \"12A\"}' --wait 5s\n"
                 "  txbroker --config txbroker.json saga start trip --key order-42 --input-file trip-42.json\n"},
    {.name = "saga wait",
     .operands = "ID",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "wait for a saga's end and print what it gave",
     .options = txb_saga_wait_options,
     .run = txb_cmd_saga_wait,
     .details = "Exit code 0 when it is completed, 1 when it is compensated, refused, or still running.",
     .examples = "  txbroker --config txbroker.json saga wait 0190163d-8694-739b-aea5-966c26f8ad91 --timeout 10s\n"},
    {.name = "saga list",
     .summary = "list sagas, the newest first; or what is deployed",
     .options = txb_saga_list_options,
     .run = txb_cmd_saga_list,
     .details = "Those that wait for a person: --state stuck.",
     .examples = "  txbroker --config txbroker.json saga list --state stuck\n"
                 "  txbroker --config txbroker.json saga list --definitions\n"},
    {.name = "saga show",
     .operands = "ID",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "show a saga: its steps, everything that happened, what to do",
     .options = txb_saga_show_options,
     .run = txb_cmd_saga_show,
     .examples = "  txbroker --config txbroker.json saga show 0190163d-8694-739b-aea5-966c26f8ad91 --follow\n"},
    {.name = "saga retry",
     .operands = "ID STEP",
     .operands_min = 2,
     .operands_max = 2,
     .summary = "have a stuck step tried again, with all its attempts",
     .options = txb_saga_retry_options,
     .run = txb_cmd_saga_retry,
     .details = "Of a step whose outcome nobody tells its participant is asked again.",
     .examples = "  txbroker --config txbroker.json saga retry 0190163d-8694-739b-aea5-966c26f8ad91 hotel --reason "
                 "'hotel is back'\n"},
    {.name = "saga edit",
     .operands = "ID STEP",
     .operands_min = 2,
     .operands_max = 2,
     .summary = "have a stuck step tried again with another payload",
     .options = txb_saga_edit_options,
     .run = txb_cmd_saga_edit,
     .details = "For an action behind the pivot, and for a compensation. The payload takes the place of what the "
                "definition makes, now and whenever that command is sent again; it is kept with the saga.",
     .examples = "  txbroker --config txbroker.json saga edit 0190163d-8694-739b-aea5-966c26f8ad91 mail --payload-file "
                 "mail.json --reason 'a wrong address'\n"},
    {.name = "saga skip",
     .operands = "ID STEP",
     .operands_min = 2,
     .operands_max = 2,
     .summary = "have a saga go on without a stuck step",
     .options = txb_saga_skip_options,
     .run = txb_cmd_saga_skip,
     .details =
         "An action behind the pivot is left out: first its participant is asked, and from then on it can't take "
         "effect any more; had it taken effect, it is done. Of a compensation the effect stands, and the saga's "
         "end says so. A step of which nobody tells whether it took effect is not skipped: saga mark.",
     .examples = "  txbroker --config txbroker.json saga skip 0190163d-8694-739b-aea5-966c26f8ad91 mail --reason "
                 "'the customer has no address'\n"},
    {.name = "saga mark",
     .operands = "ID STEP",
     .operands_min = 2,
     .operands_max = 2,
     .summary = "say what has become of a stuck step",
     .options = txb_saga_mark_options,
     .run = txb_cmd_saga_mark,
     .details = "What you say is taken as what happened, so look first. The saga goes on from there.",
     .examples = "  txbroker --config txbroker.json saga mark 0190163d-8694-739b-aea5-966c26f8ad91 hotel --undone "
                 "--reason 'cancelled by phone'\n"},
    {.name = "saga cancel",
     .operands = "ID",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "have a running saga turn back",
     .options = txb_saga_cancel_options,
     .run = txb_cmd_saga_cancel,
     .details = "Refused when it can't turn back any more: its pivot took effect.",
     .examples = "  txbroker --config txbroker.json saga cancel 0190163d-8694-739b-aea5-966c26f8ad91 --reason "
                 "'the customer called'\n"},
    {.name = "saga locks",
     .summary = "list the names that sagas lock, and who waits for them",
     .options = txb_saga_locks_options,
     .run = txb_cmd_saga_locks,
     .details = "A saga holds what its definition locks from its start to its end; who waits gets it in turn. No lock "
                "runs out: one that is held for long is held by a saga that is, so look at that one.",
     .examples = "  txbroker --config txbroker.json saga locks --name account:\n"
                 "  txbroker --config txbroker.json saga locks --saga 0190163d-8694-739b-aea5-966c26f8ad91\n"},
    {.name = "saga states",
     .summary = "print what may become of a saga's step",
     .options = txb_saga_states_options,
     .run = txb_cmd_saga_states,
     .details = "The table of states and events that decides it. Connects to nothing.",
     .examples = "  txbroker saga states\n"},
    {.name = "audit list",
     .summary = "list who decided what about messages, the newest first",
     .options = txb_audit_list_options,
     .run = txb_cmd_audit_list,
     .details =
         "One row for each transaction of a decision: when, database role and system user, command, filter, how "
         "many messages it meant and changed, why; and why a saga's was refused. What is only asked for, of a job "
         "about failed messages or of a saga's coordinator, has changed nothing yet: failed jobs and saga show say "
         "what became of it. A job has one more when it ends. All decisions of one database are listed: --group and "
         "--source only choose it, since a row says what the command was given, and that may be numbers of messages "
         "and no group.",
     .examples = "  txbroker --config txbroker.json audit list -o jsonl\n"},
    {.name = "completion",
     .operands = "bash|zsh|fish",
     .choices = "bash|zsh|fish",
     .operands_min = 1,
     .operands_max = 1,
     .summary = "print a completion script for a shell",
     .run = txb_cmd_completion,
     .examples = "  . <(txbroker completion bash)\n  txbroker completion zsh > ~/.zfunc/_txbroker\n"
                 "  txbroker completion fish > ~/.config/fish/completions/txbroker.fish\n"},
    {.name = "man",
     .summary = "print the manual page (roff)",
     .run = txb_cmd_man,
     .examples = "  txbroker man | man -l -\n"},
    {.name = "help",
     .operands = "[COMMAND]",
     .operands_max = 2,
     .summary = "help for the program or a command",
     .run = txb_cmd_help},
    {.name = "version", .summary = "print the version", .run = txb_cmd_version},
    {.name = NULL},
};
