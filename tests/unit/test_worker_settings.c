/* What a worker may be asked for: the limits of the program hold for applications too. No server is asked. */
#include <criterion/criterion.h>
#include <limits.h>
#include <string.h>

#include "consumer/worker.h"

static const char *const topics[] = {"notes", "a.b_c-1", NULL};

static struct txb_worker_settings good(void) {
  struct txb_worker_settings s;
  txb_worker_settings_init(&s);
  s.group = "ledger";
  s.topics = topics;
  s.database = "";
  return s;
}

static void refused(const struct txb_worker_settings *s, const char *named) {
  struct txb_error err = {.message = ""};
  cr_assert(txb_worker_settings_check(s, &err) == TXB_REFUSED && err.origin == TXB_ORIGIN_USAGE, "%s", named);
  cr_assert(strstr(err.message, named) != NULL, "%s: %s", named, err.message);
}

Test(worker_settings, takes_what_is_usual) {
  struct txb_worker_settings s = good();
  struct txb_error err;
  cr_assert(txb_worker_settings_check(&s, &err) == TXB_OK, "%s", err.message);
}

Test(worker_settings, refuses_numbers_that_would_overflow_or_that_servers_refuse) {
  struct txb_worker_settings s = good();
#define REFUSED_WITH(field, value, named)                                                                              \
  do {                                                                                                                 \
    s = good();                                                                                                        \
    s.field = (value);                                                                                                 \
    refused(&s, named);                                                                                                \
  } while (0)
  REFUSED_WITH(session_timeout_ms, 2000000000, "session_timeout_ms is 2000000000, and may be 6000 to 1800000 milli");
  REFUSED_WITH(session_timeout_ms, 5000000, "session_timeout_ms");
  REFUSED_WITH(session_timeout_ms, -1, "session_timeout_ms");
  REFUSED_WITH(batch_messages, INT_MAX, "batch_messages");
  REFUSED_WITH(batch_messages, -1, "batch_messages");
  REFUSED_WITH(batch_bytes, INT_MAX, "batch_bytes");
  REFUSED_WITH(batch_wait_ms, INT_MAX, "batch_wait_ms");
  REFUSED_WITH(inbox_keep_ms, INT64_MAX, "inbox_keep_ms");
  REFUSED_WITH(inbox_keep_ms, 1, "inbox_keep_ms");
  REFUSED_WITH(failed_keep_ms, 1, "failed_keep_ms");
  REFUSED_WITH(saga_keep_ms, 1, "saga_keep_ms");
  REFUSED_WITH(retry_first_ms, INT64_MAX / 2, "retry.first_ms");
  REFUSED_WITH(retry_cap_ms, INT64_MAX / 2, "retry.cap_ms");
  REFUSED_WITH(retry_first_ms, 60001, "retry.first_ms is longer than retry.cap_ms");
}

Test(worker_settings, a_dead_letter_topic_is_a_topic_and_none_of_the_groups) {
  struct txb_worker_settings s = good();
  struct txb_error err;
  s.retry_dead_letter_topic = "notes.dead";
  cr_assert(txb_worker_settings_check(&s, &err) == TXB_OK, "%s", err.message);
  REFUSED_WITH(retry_dead_letter_topic, "a b", "retry.dead_letter_topic a b: may hold");
  REFUSED_WITH(retry_dead_letter_topic, "", "retry.dead_letter_topic");
  REFUSED_WITH(retry_dead_letter_topic, "a.b_c-1", "retry.dead_letter_topic is a.b_c-1, one of its own topics");
}

/* librdkafka takes a name that begins with ^ for a pattern; PostgreSQL takes no text that is not UTF-8. */
Test(worker_settings, refuses_names_that_are_none) {
  static const char *const wrong[] = {"", "^notes", "^.*", ".", "..", "a b", "notes\xFF", "M\xC3\xBCller"};
  struct txb_worker_settings s = good();
  struct txb_error err;
  char long_name[257];
  memset(long_name, 'x', sizeof long_name - 1);
  long_name[sizeof long_name - 1] = '\0';
  for (size_t i = 0; i < TXB_ARRAY_SIZE(wrong); i++) {
    const char *const list[] = {"notes", wrong[i], NULL};
    s = good();
    s.topics = list;
    refused(&s, "topics");
  }
  REFUSED_WITH(group, "", "group");
  REFUSED_WITH(group, NULL, "group");
  REFUSED_WITH(group, "ledger\xFF", "group: may hold");
  REFUSED_WITH(group, long_name, "group: must have 1 to 255");
  long_name[255] = '\0';
  s.group = long_name;
  cr_assert(txb_worker_settings_check(&s, &err) == TXB_OK);
}
