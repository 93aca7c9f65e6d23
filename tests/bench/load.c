/* A publishing application: one-row transactions at a steady rate, over a few connections, none waiting for another.
 *
 *   bench_load --database URI --topic NAME --seconds S [--rate 1000] [--connections 8]
 *              [--rollback PERCENT] [--keys 10000] [--payload 200]
 *
 * Each payload is JSON that starts with {"t":<CLOCK_MONOTONIC ns when the transaction was due>,"n":<number>. A
 * transaction that finds no free connection waits in line, and its wait counts: a load that slows down with the
 * server would hide what it should show. Of every hundred numbers the first --rollback roll back: they must never be
 * heard.
 *
 * Prints one JSON object: committed, rolled_back, next (numbers used), late_ms (the worst lateness of the load's own
 * clock), line_max, seconds.
 */
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "measure.h"

enum { CONNECTIONS_MAX = 64, PAYLOAD_MAX = 4096 };

struct line { /* transactions that are due, in a ring */
  int64_t *due;
  size_t head, count, capacity, count_max;
};

struct load {
  PGconn *pg[CONNECTIONS_MAX];
  bool busy[CONNECTIONS_MAX], rolling_back[CONNECTIONS_MAX];
  int connections;
  int64_t rate, total, rollback, keys, payload;
  const char *topic;
  struct line line;
  int64_t next, issued, committed, rolled_back, late_max_ns;
};

static const char insert[] =
    "INSERT INTO txb.outbox (topic, key, type, payload, content_type) VALUES ($1, $2, 'bench.made', "
    "convert_to($3, 'UTF8'), 'application/json')";

static void line_push(struct line *l, int64_t due) {
  if (l->count == l->capacity)
    give_up("the server can't keep up: %zu transactions wait", l->count);
  l->due[(l->head + l->count++) % l->capacity] = due;
  if (l->count > l->count_max)
    l->count_max = l->count;
}

static int64_t line_pop(struct line *l) {
  int64_t due = l->due[l->head];
  l->head = (l->head + 1) % l->capacity;
  l->count--;
  return due;
}

static void must(PGconn *pg, int ok) {
  if (!ok)
    give_up("%s", PQerrorMessage(pg));
}

static void open_connections(struct load *l, const char *uri) {
  for (int i = 0; i < l->connections; i++) {
    PGconn *pg = PQconnectdb(uri);
    must(pg, PQstatus(pg) == CONNECTION_OK);
    static const char *const text[][2] = {
        {"begin", "BEGIN"}, {"commit", "COMMIT"}, {"rollback", "ROLLBACK"}, {"insert", insert}};
    for (int s = 0; s < 4; s++) {
      PGresult *r = PQprepare(pg, text[s][0], text[s][1], 0, NULL);
      must(pg, PQresultStatus(r) == PGRES_COMMAND_OK);
      PQclear(r);
    }
    must(pg, PQsetnonblocking(pg, 1) == 0 && PQenterPipelineMode(pg) == 1);
    l->pg[i] = pg;
  }
}

static void issue(struct load *l, int i) {
  char payload[PAYLOAD_MAX], key[24];
  int size = snprintf(payload, sizeof payload, "{\"t\":%lld,\"n\":%lld,\"pad\":\"", (long long)line_pop(&l->line),
                      (long long)l->next);
  while (size < l->payload - 2)
    payload[size++] = 'x';
  memcpy(payload + size, "\"}", 3);
  snprintf(key, sizeof key, "%lld", (long long)(l->next % l->keys));
  l->rolling_back[i] = l->next % 100 < l->rollback;
  l->next++;
  const char *values[] = {l->topic, key, payload};
  PGconn *pg = l->pg[i];
  must(pg, PQsendQueryPrepared(pg, "begin", 0, NULL, NULL, NULL, 1));
  must(pg, PQsendQueryPrepared(pg, "insert", 3, values, NULL, NULL, 1));
  must(pg, PQsendQueryPrepared(pg, l->rolling_back[i] ? "rollback" : "commit", 0, NULL, NULL, NULL, 1));
  must(pg, PQpipelineSync(pg));
  must(pg, PQflush(pg) >= 0);
  l->busy[i] = true;
}

/* Reads what has come; the sync ends the transaction. */
static void hear(struct load *l, int i) {
  PGconn *pg = l->pg[i];
  must(pg, PQconsumeInput(pg));
  if (!l->busy[i])
    return;
  while (!PQisBusy(pg)) {
    PGresult *r = PQgetResult(pg);
    ExecStatusType status = PQresultStatus(r);
    PQclear(r);
    if (r == NULL)
      continue;
    if (status == PGRES_PIPELINE_SYNC) {
      l->busy[i] = false;
      l->committed += !l->rolling_back[i];
      l->rolled_back += l->rolling_back[i];
      return;
    }
    must(pg, status == PGRES_COMMAND_OK);
  }
}

static int open_timer(int64_t rate) {
  int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  int64_t period = 1000000000 / rate;
  struct timespec t = {period / 1000000000, period % 1000000000};
  if (fd < 0 || timerfd_settime(fd, 0, &(struct itimerspec){t, t}, NULL) != 0)
    give_up("timerfd: %s", strerror(errno));
  return fd;
}

static void tick(struct load *l, int timer, int64_t begun) {
  uint64_t ticks = 0;
  if (read(timer, &ticks, sizeof ticks) != (ssize_t)sizeof ticks)
    return;
  int64_t now = now_ns();
  for (; ticks > 0 && l->issued < l->total; ticks--) {
    int64_t late = now - (begun + (l->issued + 1) * 1000000000 / l->rate);
    l->late_max_ns = late > l->late_max_ns ? late : l->late_max_ns;
    line_push(&l->line, now);
    l->issued++;
  }
}

static void run(struct load *l) {
  struct pollfd fds[CONNECTIONS_MAX + 1];
  int64_t begun = now_ns();
  int timer = open_timer(l->rate);
  while (l->committed + l->rolled_back < l->total) {
    for (int i = 0; i < l->connections && l->line.count > 0; i++)
      if (!l->busy[i])
        issue(l, i);
    for (int i = 0; i < l->connections; i++)
      fds[i] = (struct pollfd){.fd = PQsocket(l->pg[i]), .events = POLLIN};
    fds[l->connections] = (struct pollfd){.fd = timer, .events = POLLIN};
    if (poll(fds, (nfds_t)l->connections + 1, 30000) <= 0)
      give_up("nothing happened for 30 seconds");
    if (fds[l->connections].revents != 0)
      tick(l, timer, begun);
    for (int i = 0; i < l->connections; i++)
      if (fds[i].revents != 0)
        hear(l, i);
  }
  close(timer);
}

int main(int argc, char **argv) {
  struct load l = {
      .connections = (int)argument_number(argc, argv, "connections", 8),
      .rate = argument_number(argc, argv, "rate", 1000),
      .rollback = argument_number(argc, argv, "rollback", 0),
      .keys = argument_number(argc, argv, "keys", 10000),
      .payload = argument_number(argc, argv, "payload", 200),
      .topic = argument(argc, argv, "topic", NULL),
  };
  l.total = l.rate * argument_number(argc, argv, "seconds", 10);
  if (l.connections < 1 || l.connections > CONNECTIONS_MAX || l.payload < 64 || l.payload > PAYLOAD_MAX - 4 ||
      l.rate < 1)
    give_up("connections 1 to %d, payload 64 to %d, rate from 1", CONNECTIONS_MAX, PAYLOAD_MAX - 4);
  l.line.capacity = (size_t)l.rate * 20;
  l.line.due = calloc(l.line.capacity, sizeof *l.line.due);
  if (l.line.due == NULL)
    give_up("out of memory");
  open_connections(&l, argument(argc, argv, "database", NULL));
  int64_t begun = now_ns();
  run(&l);
  printf("{\"committed\": %lld, \"rolled_back\": %lld, \"next\": %lld, \"late_ms\": %.2f, \"line_max\": %zu, "
         "\"seconds\": %.3f}\n",
         (long long)l.committed, (long long)l.rolled_back, (long long)l.next, (double)l.late_max_ns / 1e6,
         l.line.count_max, (double)(now_ns() - begun) / 1e9);
  for (int i = 0; i < l.connections; i++)
    PQfinish(l.pg[i]);
  free(l.line.due);
  return 0;
}
