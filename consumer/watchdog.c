/* See watchdog.h. Nothing of it outlives the process; what it leaves is what kill -9 leaves, and a line in the log. */
#include "consumer/watchdog.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/loop.h"
#include "common/memory.h"

#define MS             INT64_C(1000)
#define STOOD_STILL_US (1000 * MS)
#define LAST_WORDS_S   5 /* the log may lead to a pipe that nobody reads */

struct txb_watchdog {
  pthread_t thread;
  int stop_fd;
  int64_t timeout_ms;
  pthread_mutex_t mutex; /* over what follows */
  struct txb_watch watch;
  struct txb_watched call;
};

/* ---- when a call is late ---------------------------------------------------------------------- */

/* A call that begins later is due later than one that begins now. */
bool txb_watch_look(struct txb_watch *watch, int64_t now_us) {
  bool stood_still = watch->due_us > 0 && now_us - watch->due_us > STOOD_STILL_US;
  if (watch->began_us > 0 && stood_still)
    watch->began_us = now_us;
  watch->due_us = (watch->began_us > 0 ? watch->began_us : now_us) + watch->limit_us;
  return watch->due_us <= now_us;
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* The mutex is held: a call that comes back meanwhile stands before it, and its message's memory is still there. SIGABRT,
 * so that a core file shows where the handler hangs; whatever a plugin has made of the signal. */
static _Noreturn void end_process(const struct txb_watchdog *dog, int64_t now_us) {
  const struct txb_watched *call = &dog->call;
  struct sigaction fatal = {.sa_handler = SIG_DFL};
  sigset_t last_words; /* a plugin may have blocked it in all threads but this one, and this one has all blocked */
  (void)sigemptyset(&last_words);
  (void)sigaddset(&last_words, SIGALRM);
  (void)sigaction(SIGALRM, &fatal, NULL);
  (void)sigaction(SIGABRT, &fatal, NULL);
  (void)pthread_sigmask(SIG_UNBLOCK, &last_words, NULL);
  (void)alarm(LAST_WORDS_S);
  txb_log(
      TXB_LOG_ERROR,
      TXB_MSG("a handler's call takes longer than handler.timeout_ms and can't be interrupted: this process ends, and "
              "the message is set aside if that happens twice while it runs alone"),
      TXB_F("group", call->group), TXB_F("topic", call->topic), TXB_FI("partition", call->partition),
      TXB_FI("offset", call->offset), TXB_F("id", call->id), TXB_FB("key", call->key),
      TXB_FI("timeout_ms", dog->timeout_ms), TXB_FI("for_ms", (now_us - dog->watch.began_us) / MS));
  abort();
}

static int64_t look(struct txb_watchdog *dog) {
  (void)pthread_mutex_lock(&dog->mutex);
  int64_t now_us = txb_clock_steady_us();
  if (txb_watch_look(&dog->watch, now_us))
    end_process(dog, now_us);
  int64_t wait_us = dog->watch.due_us - now_us;
  (void)pthread_mutex_unlock(&dog->mutex);
  return wait_us;
}

static void *watch_main(void *argument) {
  struct txb_watchdog *dog = argument;
  struct txb_error err;
  (void)pthread_setname_np(pthread_self(), "watchdog");
  while (!txb_stopped(dog->stop_fd)) {
    struct pollfd fd = {.fd = dog->stop_fd, .events = POLLIN};
    if (txb_wait(&fd, 1, look(dog), NULL, &err) == TXB_OK)
      continue;
    txb_log(TXB_LOG_WARN, TXB_MSG("handlers are not watched any more; one that hangs goes on hanging"),
            TXB_F("error", err.message));
    break;
  }
  return NULL;
}

/* The process's signals are for other threads. */
static int start_thread(struct txb_watchdog *dog) {
  sigset_t all, old;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &old);
  int code = pthread_create(&dog->thread, NULL, watch_main, dog);
  (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
  return code;
}

enum txb_rc txb_watchdog_open(int64_t timeout_ms, struct txb_watchdog **out, struct txb_error *err) {
  void *memory = NULL;
  TXB_ASSERT(timeout_ms > 0);
  TXB_TRY(txb_alloc(sizeof **out, &memory, err));
  struct txb_watchdog *dog = memory;
  *dog =
      (struct txb_watchdog){.timeout_ms = timeout_ms, .watch = {.limit_us = (timeout_ms + TXB_WATCHDOG_GRACE_MS) * MS}};
  enum txb_rc rc = txb_wake_open(&dog->stop_fd, err);
  if (rc != TXB_OK)
    goto err_memory;
  (void)pthread_mutex_init(&dog->mutex, NULL);
  int code = start_thread(dog);
  if (code != 0) {
    rc = TXB_FAIL(err, TXB_FATAL, "can't start a thread that watches the handler: %s", strerror(code));
    goto err_wake;
  }
  *out = dog;
  return TXB_OK;

err_wake:
  (void)pthread_mutex_destroy(&dog->mutex);
  close(dog->stop_fd);
err_memory:
  txb_free(dog);
  return rc;
}

void txb_watchdog_close(struct txb_watchdog *dog) {
  if (dog == NULL)
    return;
  txb_wake_signal(dog->stop_fd);
  (void)pthread_join(dog->thread, NULL);
  (void)pthread_mutex_destroy(&dog->mutex);
  close(dog->stop_fd);
  txb_free(dog);
}

void txb_watchdog_arm(struct txb_watchdog *dog, const struct txb_watched *call) {
  if (dog == NULL)
    return;
  (void)pthread_mutex_lock(&dog->mutex);
  dog->call = *call;
  dog->watch.began_us = txb_clock_steady_us();
  (void)pthread_mutex_unlock(&dog->mutex);
}

void txb_watchdog_disarm(struct txb_watchdog *dog) {
  if (dog == NULL)
    return;
  (void)pthread_mutex_lock(&dog->mutex);
  dog->watch.began_us = 0;
  (void)pthread_mutex_unlock(&dog->mutex);
}
