/* demo: the verifier. It reads the banks' own tables with SQL of its own and compares row by row; nothing of the
 * product's functions or counters. */
#include <inttypes.h>
#include <string.h>

#include "broker/cli/demo.h"
#include "cli_sql.h"

static const struct txb_pg_statement sent_statement = {"demo_sent", txb_text_demo_sent};
static const struct txb_pg_statement credited_statement = {"demo_credited", txb_text_demo_credited};
static const struct txb_pg_statement misordered_statement = {"demo_misordered", txb_text_demo_misordered};
static const struct txb_pg_statement unbalanced_statement = {"demo_unbalanced", txb_text_demo_unbalanced};
static const struct txb_pg_statement published_statement = {"demo_published", txb_text_demo_published};

static int compare_ids(const struct txb_pg_result *sent, int i, const struct txb_pg_result *credited, int j) {
  struct txb_uuid a, b;
  txb_pg_uuid(sent, i, 0, &a);
  txb_pg_uuid(credited, j, 0, &b);
  return memcmp(a.bytes, b.bytes, sizeof(a.bytes));
}

/* Whether what arrived is what was sent: accounts, amount, number. */
static bool is_same(const struct txb_pg_result *sent, int i, const struct txb_pg_result *credited, int j) {
  return txb_pg_int4(sent, i, 1) == txb_pg_int4(credited, j, 1) &&
         txb_pg_int4(sent, i, 2) == txb_pg_int4(credited, j, 2) &&
         txb_pg_int8(sent, i, 3) == txb_pg_int8(credited, j, 3) &&
         txb_pg_int8(sent, i, 4) == txb_pg_int8(credited, j, 4);
}

/* Both lists are sorted by id: each transfer must meet exactly one credit. */
static void match(const struct txb_pg_result *sent, const struct txb_pg_result *credited, struct txb_demo_verdict *v) {
  int j = 0, credits = txb_pg_rows(credited);
  for (int i = 0; i < txb_pg_rows(sent); i++) {
    int met = 0;
    for (; j < credits && compare_ids(sent, i, credited, j) > 0; j++)
      v->invented++;
    for (; j < credits && compare_ids(sent, i, credited, j) == 0; j++, met++)
      v->altered += !is_same(sent, i, credited, j);
    v->transfers++;
    v->applied += met > 0;
    v->lost += met == 0;
    v->doubled += met > 1 ? met - 1 : 0;
  }
  v->invented += credits - j;
}

static enum txb_rc one_number(struct txb_pg *pg, const struct txb_pg_statement *statement, int64_t *sum,
                              struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *row = NULL;
  TXB_TRY(txb_pg_query(pg, statement, NULL, &row, err));
  *sum += txb_pg_int8(row, 0, 0);
  return TXB_OK;
}

static enum txb_rc verify_direction(struct txb_demo_bank *from, struct txb_demo_bank *to, struct txb_demo_verdict *v,
                                    struct txb_error *err) {
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *sent = NULL;
  TXB_CLEANUP(txb_pg_result_free_ptr) struct txb_pg_result *credited = NULL;
  TXB_TRY(txb_pg_query(from->db->pg, &sent_statement, NULL, &sent, err));
  TXB_TRY(txb_pg_query(to->db->pg, &credited_statement, NULL, &credited, err));
  match(sent, credited, v);
  TXB_TRY(one_number(from->db->pg, &published_statement, &v->published, err));
  TXB_TRY(one_number(to->db->pg, &misordered_statement, &v->misordered, err));
  return one_number(to->db->pg, &unbalanced_statement, &v->unbalanced, err);
}

enum txb_rc txb_demo_verify(struct txb_demo *demo, int64_t money_before, struct txb_demo_verdict *out,
                            struct txb_error *err) {
  struct txb_demo_verdict v = {.money_before = money_before};
  TXB_TRY(verify_direction(&demo->banks[0], &demo->banks[1], &v, err));
  TXB_TRY(verify_direction(&demo->banks[1], &demo->banks[0], &v, err));
  TXB_TRY(txb_demo_money(demo, &v.money_after, err));
  v.ok = v.transfers == demo->transfers && v.published == v.transfers && v.applied == v.transfers && v.lost == 0 &&
         v.doubled == 0 && v.misordered == 0 && v.altered == 0 && v.invented == 0 && v.unbalanced == 0 &&
         v.money_before == v.money_after;
  *out = v;
  return TXB_OK;
}

static void line(const struct txb_demo *demo, const char *name, int64_t value, bool good, const char *remark) {
  const char *color = good ? "" : txb_color(demo->stage.cli, "\033[31m");
  txb_print("  %-24s %s%12" PRId64 "%s%s%s\n", name, color, value, *color == '\0' ? "" : "\033[0m",
            remark == NULL ? "" : "   ", remark == NULL ? "" : remark);
}

static void print_text(const struct txb_demo *demo, const struct txb_demo_verdict *v) {
  struct txb_buffer kills;
  txb_buffer_init(&kills);
  txb_buffer_addf(&kills, "relay %d, worker %d; each had work under way", demo->stage.processes[TXB_DEMO_RELAY].kills,
                  demo->stage.processes[TXB_DEMO_WORKER].kills);
  txb_print("\n");
  line(demo, "transfers", v->transfers, v->transfers == demo->transfers, NULL);
  line(demo, "published", v->published, v->published == v->transfers, NULL);
  line(demo, "applied", v->applied, v->applied == v->transfers, NULL);
  line(demo, "lost", v->lost, v->lost == 0, NULL);
  line(demo, "doubled", v->doubled, v->doubled == 0, NULL);
  line(demo, "out of order", v->misordered, v->misordered == 0, NULL);
  line(demo, "altered or invented", v->altered + v->invented, v->altered + v->invented == 0, NULL);
  line(demo, "accounts off the ledger", v->unbalanced, v->unbalanced == 0, NULL);
  line(demo, "money before", v->money_before, true, NULL);
  line(demo, "money after", v->money_after, v->money_before == v->money_after, NULL);
  line(demo, "rolled back on purpose", demo->rolled_back, true, NULL);
  line(demo, "repetitions dropped", demo->banks[0].duplicate + demo->banks[1].duplicate, true,
       "sent again after kills; the inbox knew them");
  line(demo, "processes killed", demo->stage.kills, demo->stage.kills >= demo->kills_wanted, txb_buffer_text(&kills));
  txb_print("\n%s%s%s\n", txb_color(demo->stage.cli, v->ok ? "\033[32m" : "\033[31m"),
            v->ok ? "Every transfer took effect exactly once, in order." : "The promise was broken: see above.",
            txb_color(demo->stage.cli, "\033[0m"));
  txb_buffer_fini(&kills);
}

void txb_demo_print(const struct txb_demo *demo, const struct txb_demo_verdict *v) {
  if (demo->stage.cli->output == TXB_OUTPUT_TEXT) {
    print_text(demo, v);
    return;
  }
  json_t *object =
      json_pack("{s:I, s:I, s:I, s:I, s:I, s:i, s:I, s:I, s:b}", "transfers", (json_int_t)v->transfers, "applied",
                (json_int_t)v->applied, "lost", (json_int_t)v->lost, "doubled", (json_int_t)v->doubled, "misordered",
                (json_int_t)v->misordered, "kills", demo->stage.kills, "money_before", (json_int_t)v->money_before,
                "money_after", (json_int_t)v->money_after, "ok", v->ok);
  txb_print_json(demo->stage.cli, object);
  json_decref(object);
}
