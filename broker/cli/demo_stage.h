/* What the demos play on: a PostgreSQL and a Kafka, private ones unless the user names his own; databases and topics of this
 * run; and txbroker's processes, which are started, killed and started again. A crash of this process takes its children along;
 * what is on disk is removed by the next start.
 */
#ifndef TXB_BROKER_CLI_DEMO_STAGE_H
#define TXB_BROKER_CLI_DEMO_STAGE_H

#include "broker/cli/child.h"
#include "broker/cli/cli.h"
#include "broker/cli/private_postgres.h"
#include "common/kafka_mock.h"

enum { TXB_STAGE_MAX = 4 }; /* of each kind */

struct txb_stage_database {
  char name[64];
  const char *uri; /* borrowed from address */
  struct txb_buffer address;
  struct txb_pg *pg; /* to look and to verify */
};

struct txb_stage_process {
  struct txb_child child;
  const char *name;                         /* for messages and its log's file */
  const char *arguments[TXB_STAGE_MAX + 2]; /* command and operands, NULL-ended; borrowed */
  char log[100];
  int64_t progress_at_start; /* the caller's: it must do something before it is killed again */
  int kills;
};

struct txb_stage {
  struct txb_cli *cli;
  int stop_fd;                          /* a signal ends every wait for a server */
  struct txb_private_postgres postgres; /* unless the server is the user's */
  bool own_postgres;
  struct txb_private_directory directory; /* logs and configuration, when the server is the user's */
  const char *base;                       /* path of the one in use */
  const char *server_uri;                 /* the user's server */
  struct txb_kafka_mock *mock;
  const char *brokers;
  uint32_t run; /* in all names of this run that might meet others */
  struct txb_stage_database databases[TXB_STAGE_MAX];
  int database_count, databases_made; /* made, or perhaps made: nobody waited for the answer */
  char topics[TXB_STAGE_MAX][100];
  int topic_count, topics_made;
  struct txb_stage_process processes[TXB_STAGE_MAX];
  int process_count;
  char config[100];
  int kills;
};

/* Empty, with the server of --database, if given. TXB_REFUSED (usage): --keep without one. close in every case. */
enum txb_rc txb_stage_init(struct txb_stage *stage, struct txb_cli *cli, struct txb_error *err) TXB_MUST_CHECK;
/* A name of this run: as it is where all is private, else with what tells runs apart. */
struct txb_stage_database *txb_stage_add_database(struct txb_stage *stage, const char *name);
const char *txb_stage_add_topic(struct txb_stage *stage, const char *name); /* borrowed */
/* "txbroker-demo-1a2b3c4d.NAME" */
void txb_stage_group_name(const struct txb_stage *stage, const char *name, char *out, size_t out_size);
/* Kafka, its topics, PostgreSQL, its databases with txbroker's schema and connections to them; tells where it plays. */
enum txb_rc txb_stage_open(struct txb_stage *stage, int partitions, struct txb_error *err) TXB_MUST_CHECK;
/* Processes, databases (unless they are kept) and topics go. */
void txb_stage_close(struct txb_stage *stage);

/* kafka.client of the user's settings, for the configuration of the processes. */
json_t *txb_stage_client_options(const struct txb_stage *stage);
/* Writes the configuration, a file that only this user reads: command lines are there for everybody. Frees it. */
enum txb_rc txb_stage_write_config(struct txb_stage *stage, json_t *config, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_stage_start(struct txb_stage *stage, struct txb_stage_process *process,
                            struct txb_error *err) TXB_MUST_CHECK;
/* Fails when one ended by itself. */
enum txb_rc txb_stage_check(struct txb_stage *stage, struct txb_error *err) TXB_MUST_CHECK;
/* kill -9, until it is gone. */
void txb_stage_kill(struct txb_stage_process *process);
void txb_stage_stop(struct txb_stage *stage);

#endif
