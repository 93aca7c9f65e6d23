/* A PostgreSQL server of our own: private directory, private socket, gone with us.
 *
 * As root it runs as user postgres or nobody, since the server refuses root. A crash of this process ends the server
 * (death signal); what is left on disk is removed by the next start (private_directory.h), but for a data directory
 * that the user asked to keep.
 */
#ifndef TXB_BROKER_CLI_PRIVATE_POSTGRES_H
#define TXB_BROKER_CLI_PRIVATE_POSTGRES_H

#include "broker/cli/child.h"
#include "broker/cli/private_directory.h"
#include "common/buffer.h"

struct txb_private_postgres_options {
  const char *data; /* directory to keep; NULL: in the private directory, without fsync */
  int port;         /* on 127.0.0.1, with a password; 0: a free one; -1: only the private socket */
  int stop_fd;      /* ends the wait for the server; -1: none */
};

struct txb_private_postgres {
  struct txb_private_directory directory;
  struct txb_child server;
  char binaries[200]; /* where initdb and postgres are */
  char data[256];
  char sockets[80];
  char password[33]; /* 32 hex digits */
  int port;          /* 5432, the socket's name, when there is no TCP */
  bool tcp;
  bool kept;      /* the data directory is the user's */
  bool data_made; /* and was not there before */
  int data_lock_fd;
  uid_t uid; /* 0: ours */
  gid_t gid;
  char version[32]; /* "15.8" */
};

/* TXB_REFUSED: no PostgreSQL is installed (and what to install), the directory can't be used, the port is taken. */
enum txb_rc txb_private_postgres_open(const struct txb_private_postgres_options *options,
                                      struct txb_private_postgres *out, struct txb_error *err) TXB_MUST_CHECK;
/* Ends the server and removes what is not kept. Also after a failed open. */
void txb_private_postgres_close(struct txb_private_postgres *p);
/* Connection string by the private socket. */
void txb_private_postgres_uri(const struct txb_private_postgres *p, const char *database, char *out, size_t out_size);
/* The same by TCP, with the password. */
void txb_private_postgres_tcp_uri(const struct txb_private_postgres *p, const char *database, char *out,
                                  size_t out_size);

#endif
