/* doctor: can the group's handler be called? A plugin is loaded for that, but not opened. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "broker/cli/doctor.h"
#include "broker/cli/targets.h"
#include "cli_sql.h"
#include "txbroker/consumer.h"

static const struct txb_pg_statement function_statement = {"cli_doctor_function", txb_text_cli_doctor_function};

static void judge_function(struct txb_doctor *d, const struct txb_group_settings *group, bool batch,
                           const struct txb_pg_result *row) {
  const char *name = group->handler_function, *others = txb_pg_text(row, 0, 4);
  const char *wanted = batch ? "(txb.message[]) returns setof txb.outcome" : "(txb.message) returns txb.outcome";
  char remedy[200];
  if (!txb_pg_bool(row, 0, 0)) {
    (void)snprintf(remedy, sizeof(remedy), "create %.60s%s, or correct workers.%.40s.handler", name, wanted,
                   group->group);
    txb_doctor_add(d, TXB_HEALTH_FAIL, "handler", group->group, remedy, "there is no function %s%s%s%s", name,
                   batch ? "(txb.message[])" : "(txb.message)", others == NULL ? "" : "; there is ",
                   others == NULL ? "" : others);
    return;
  }
  (void)snprintf(remedy, sizeof(remedy), "declare it so, or correct workers.%.40s.handler.per", group->group);
  if (!txb_pg_bool(row, 0, 1) || txb_pg_bool(row, 0, 2) != batch)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "handler", group->group, remedy, "%s must be %s%s; there is %s", name, name,
                   wanted, others == NULL ? "-" : others);
  else if (!txb_pg_bool(row, 0, 3))
    txb_doctor_add(d, TXB_HEALTH_FAIL, "handler", group->group, "GRANT EXECUTE on it to the worker's user",
                   "the worker's user may not call %s", name);
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "handler", group->group, NULL, "%s%s", name, wanted);
}

static void check_function(struct txb_doctor *d, const struct txb_group_settings *group) {
  struct txb_pg_params params;
  struct txb_error err;
  struct txb_pg *pg = NULL;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  bool batch = strcmp(group->handler_per, "batch") == 0;
  txb_pg_params_init(&params);
  txb_pg_add_text(&params, txb_slice_text(group->handler_function));
  txb_pg_add_bool(&params, batch);
  enum txb_rc rc = txb_target_connect_as_worker(d->cli, group->database, d->timeout_ms, &pg, &err);
  if (rc == TXB_OK)
    rc = txb_pg_query(pg, &function_statement, &params, &row, &err);
  txb_pg_params_fini(&params);
  bool denied = rc == TXB_OK ? txb_pg_bool(row, 0, 0) && !txb_pg_bool(row, 0, 3) : strcmp(err.sqlstate, "42501") == 0;
  if (denied && pg != NULL && txb_doctor_only_looks(pg))
    txb_doctor_add(d, TXB_HEALTH_WARN, "handler", group->group, "run doctor as the worker's user, to check its rights",
                   "this user only looks, it may not call %s", group->handler_function);
  else if (rc == TXB_OK)
    judge_function(d, group, batch, row);
  else if (denied)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "handler", group->group,
                   "GRANT USAGE ON SCHEMA and EXECUTE ON FUNCTION to the worker's user", "%s", err.message);
  else
    txb_doctor_add_error(d, "handler", group->group, &err);
  txb_pg_close(pg);
}

static void check_plugin(struct txb_doctor *d, const struct txb_group_settings *group) {
  void *object = dlopen(group->handler_path, RTLD_NOW | RTLD_LOCAL);
  if (object == NULL) {
    const char *why = dlerror();
    char remedy[200];
    (void)snprintf(remedy, sizeof(remedy), "correct workers.%.40s.handler.path, or build the plugin for this machine",
                   group->group);
    txb_doctor_add(d, TXB_HEALTH_FAIL, "handler", group->group, remedy, "%s", why == NULL ? group->handler_path : why);
    return;
  }
  const struct txb_plugin *plugin = dlsym(object, group->handler_symbol);
  if (plugin == NULL)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "handler", group->group,
                   "export it: const struct txb_plugin txb_plugin = {...}, or set handler.symbol",
                   "%s has no symbol %s", group->handler_path, group->handler_symbol);
  else if (plugin->abi != TXB_PLUGIN_ABI || plugin->struct_size < offsetof(struct txb_plugin, close) ||
           plugin->handle == NULL)
    txb_doctor_add(d, TXB_HEALTH_FAIL, "handler", group->group, "build it against this version's txbroker/consumer.h",
                   "%s: abi %u, size %zu; this program has abi %d, size %zu", group->handler_path,
                   (unsigned)plugin->abi, plugin->struct_size, TXB_PLUGIN_ABI, sizeof(struct txb_plugin));
  else
    txb_doctor_add(d, TXB_HEALTH_OK, "handler", group->group, NULL, "plugin %s (%s)", group->handler_path,
                   plugin->name == NULL ? "unnamed" : plugin->name);
  (void)dlclose(object);
}

void txb_doctor_handler(struct txb_doctor *d, const struct txb_group_settings *group, struct txb_pg *pg) {
  if (strcmp(group->handler_kind, "plugin") == 0)
    check_plugin(d, group);
  else if (strcmp(group->handler_kind, "coordinator") == 0)
    txb_doctor_add(d, TXB_HEALTH_OK, "handler", group->group, NULL, "coordinator of sagas, by topic %s",
                   group->topics.items[0]);
  else if (pg != NULL)
    check_function(d, group);
}
