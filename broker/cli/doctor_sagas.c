/* doctor: a coordinator of sagas, and its database. */
#include <inttypes.h>
#include <string.h>

#include "broker/cli/doctor.h"
#include "cli_sql.h"

static const struct txb_pg_statement statement = {"cli_doctor_sagas", txb_text_cli_doctor_sagas};

static void check_group(struct txb_doctor *d, struct txb_pg *pg, const struct txb_group_settings *group,
                        const struct txb_pg_result *row) {
  const char *used = txb_pg_text(row, 0, 1), *wanted = group->topics.items[0];
  int64_t stuck = txb_pg_int8(row, 0, 2), definitions = txb_pg_int8(row, 0, 4);
  if (!txb_pg_bool(row, 0, 0))
    txb_doctor_add(d, TXB_HEALTH_FAIL, "sagas", group->group,
                   "add the coordinator's database to sources, and start `txbroker relay` or `txbroker run`",
                   "no relay has ever served %s: starts and commands stay in its outbox", txb_pg_name(pg));
  else if (used != NULL && strcmp(used, wanted) != 0)
    txb_doctor_add(d, TXB_HEALTH_WARN, "sagas", group->group,
                   "restart the coordinator with this configuration, once nothing is left in the other topic",
                   "starts and answers of %s go to topic %s; configured is %s", txb_pg_name(pg), used, wanted);
  else if (stuck > 0)
    txb_doctor_add(d, TXB_HEALTH_WARN, "sagas", group->group,
                   "`txbroker saga list --state stuck`, then `saga retry`, `edit`, `skip` or `mark`",
                   "%" PRId64 " wait for a person, %s for the longest", stuck, txb_pg_text(row, 0, 3));
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "sagas", group->group, NULL, "%" PRId64 " definitions, nothing waits for a person",
                   definitions);
}

enum txb_rc txb_doctor_sagas(struct txb_doctor *d, struct txb_pg *pg, const char *uri, struct txb_error *err) {
  const struct txb_settings *s = &d->cli->settings;
  for (size_t i = 0; i < s->workers.count; i++) {
    TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
    const struct txb_group_settings *group = txb_settings_group(s, i);
    if (strcmp(group->handler_kind, "coordinator") != 0 || strcmp(group->database, uri) != 0)
      continue;
    TXB_TRY(txb_pg_query(pg, &statement, NULL, &row, err));
    check_group(d, pg, group, row);
  }
  return TXB_OK;
}
