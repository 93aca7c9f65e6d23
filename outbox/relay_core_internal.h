/* What the files of the relay's core share, and nobody else includes. */
#ifndef TXB_OUTBOX_RELAY_CORE_INTERNAL_H
#define TXB_OUTBOX_RELAY_CORE_INTERNAL_H

#include "outbox/relay_core.h"

/* relay_flight.c: the ring of rows that were read and are not done */
struct txb_slot *txb_flight_slot(const struct txb_relay_core *core, uint64_t ticket);
void txb_flight_reset(struct txb_relay_core *core);
/* Whether a whole read of `branches` branches has room. */
bool txb_flight_has_room(const struct txb_relay_core *core, uint32_t branches);
/* The topic of a number, made when it is new. Valid until the next call. */
enum txb_rc txb_flight_topic(struct txb_relay_core *core, uint32_t id, struct txb_topic **out,
                             struct txb_error *err) TXB_MUST_CHECK;
/* Appends a row, or passes it over when its key or topic is held. */
enum txb_rc txb_flight_take(struct txb_relay_core *core, enum txb_row_kind kind, const struct txb_relay_row *row,
                            void *owner, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_flight_reports(struct txb_relay_core *core, const struct txb_report *reports, size_t count,
                               int64_t now_us, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_flight_replaced(struct txb_relay_core *core, struct txb_error *err) TXB_MUST_CHECK;
enum txb_rc txb_flight_recorded(struct txb_relay_core *core, struct txb_error *err) TXB_MUST_CHECK;
/* Marks what may be sent now. */
void txb_flight_send(struct txb_relay_core *core, int64_t now_us);
/* Gives done slots at the tail back. */
void txb_flight_trim(struct txb_relay_core *core);

/* relay_drain.c: what was held and goes out now, by pages that are read beside holes and tail */
/* Chooses the page that the next poll asks for. */
enum txb_rc txb_drain_choose(struct txb_relay_core *core, struct txb_error *err) TXB_MUST_CHECK;
/* Takes the page that came. *more_out: pages follow. */
enum txb_rc txb_drain_take(struct txb_relay_core *core, const struct txb_relay_read *read, bool *more_out,
                           struct txb_error *err) TXB_MUST_CHECK;
/* Drains of keys of this topic begin anew when it is there again. */
void txb_drain_revert(struct txb_relay_core *core, uint32_t topic);
/* Persons have decided. */
void txb_drain_decided(struct txb_relay_core *core, const struct txb_relay_key_hold *keys, size_t count, bool loose);
bool txb_drain_is_pending(const struct txb_relay_core *core);
void txb_drain_reset(struct txb_relay_core *core);
void txb_drain_fini(struct txb_relay_core *core);
/* A failed message was published. */
enum txb_rc txb_drain_settle(struct txb_relay_core *core, int64_t failed, struct txb_error *err) TXB_MUST_CHECK;
/* Charges a read's rows that were passed over to the last one taken since head_before. */
void txb_flight_charge(struct txb_relay_core *core, const struct txb_relay_read *read, uint64_t head_before);

/* relay_view.c: what a checkpoint says. Fills core->view and takes it as stored: a checkpoint that fails makes the
 * relay forget everything. */
enum txb_rc txb_view_build(struct txb_relay_core *core, struct txb_error *err) TXB_MUST_CHECK;

#endif
