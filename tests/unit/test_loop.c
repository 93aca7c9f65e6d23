/* Waiting: wake-ups, time, signals. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/loop.h"

Test(loop, stays_stopped_once_signalled_until_cleared) {
  int fd;
  cr_assert(txb_wake_open(&fd, NULL) == TXB_OK);
  cr_assert(!txb_stopped(fd) && !txb_stopped(-1));
  txb_wake_signal(fd);
  txb_wake_signal(fd);
  cr_assert(txb_stopped(fd) && txb_stopped(fd));
  cr_assert(txb_pause(fd, INT64_MAX / 2), "a stopped pause is none");
  txb_wake_clear(fd);
  cr_assert(!txb_stopped(fd));
  txb_wake_clear(fd);
  close(fd);
}

Test(loop, waits_no_less_than_asked_and_says_that_time_is_up) {
  int fd, ready = 7;
  cr_assert(txb_wake_open(&fd, NULL) == TXB_OK);
  struct pollfd p = {.fd = fd, .events = POLLIN};
  int64_t begin = txb_clock_steady_us();
  cr_assert(txb_wait(&p, 1, 2000, &ready, NULL) == TXB_OK && ready == 0);
  cr_assert(txb_clock_steady_us() - begin >= 2000);
  cr_assert(!txb_pause(fd, 1000) && !txb_pause(-1, 1000) && !txb_pause(-1, -5));
  close(fd);
}

static void *wake(void *fd) {
  txb_wake_signal(*(int *)fd);
  return NULL;
}

Test(loop, is_woken_by_another_thread) {
  int fd, ready = 0;
  pthread_t thread;
  cr_assert(txb_wake_open(&fd, NULL) == TXB_OK);
  struct pollfd p = {.fd = fd, .events = POLLIN};
  cr_assert(pthread_create(&thread, NULL, wake, &fd) == 0);
  cr_assert(txb_wait(&p, 1, -1, &ready, NULL) == TXB_OK && ready == 1 && (p.revents & POLLIN) != 0);
  pthread_join(thread, NULL);
  close(fd);
}

static void on_alarm(int number) {
  (void)number;
}

/* A signal in the middle neither ends the wait nor makes it start anew. */
Test(loop, hides_interruptions) {
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
  struct itimerspec often = {.it_interval = {.tv_nsec = 1000000}, .it_value = {.tv_nsec = 1000000}};
  cr_assert(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
  int64_t begin = txb_clock_steady_us();
  int ready = 7;
  cr_assert(txb_wait(NULL, 0, 30000, &ready, NULL) == TXB_OK && ready == 0);
  cr_assert(txb_clock_steady_us() - begin >= 30000);
  timer_delete(timer);
}

Test(loop, gives_signals_through_a_descriptor) {
  int fd, ready;
  cr_assert(txb_signals_open(&fd, NULL) == TXB_OK);
  cr_assert(txb_signals_next(fd) == 0);
  kill(getpid(), SIGTERM);
  kill(getpid(), SIGPIPE);
  struct pollfd p = {.fd = fd, .events = POLLIN};
  cr_assert(txb_wait(&p, 1, -1, &ready, NULL) == TXB_OK);
  cr_assert(txb_signals_next(fd) == SIGTERM && txb_signals_next(fd) == 0);
  kill(getpid(), SIGHUP);
  cr_assert(txb_wait(&p, 1, -1, &ready, NULL) == TXB_OK && txb_signals_next(fd) == SIGHUP);
  close(fd);
}

Test(loop, names_a_failed_wait) {
  struct txb_error err;
  cr_assert(txb_wait((struct pollfd *)1, 3, 0, NULL, &err) == TXB_FATAL);
}
