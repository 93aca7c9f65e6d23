/* What a relay decides, as a pure state machine: which numbers to ask for, which rows to produce and in which order,
 * what a checkpoint may say.
 *
 * The process feeds it events with their steady time and carries out the actions that come back; the simulator does
 * the same with a model of both servers. The core knows nothing that a crash could lose: what it must not forget is
 * in the checkpoint, whose contents it computes, and everything else is read again.
 *
 * Order. Rows go to Kafka in the order of the reads: in a read all rows of holes by number, then rows of a topic
 * that is drained, then the tail. If A committed before B drew its number, a snapshot that shows B shows A, and A
 * has the smaller number: A is in the same read and sorted first, or in an earlier one. (R1: this holds because
 * every read asks for every hole that its snapshot could show.)
 *
 * Holds. A topic that can't be written to (missing, no right) is held: its rows are passed over, by reference to the
 * lowest number held; once it is there it is drained, pages of its rows in seq order as a third branch of the reads,
 * until a page comes up to the tail. A key behind a refused intent is held until an operator decides; then it is
 * drained the same way, with others that were decided about, in one pass over the outbox: what was refused goes out
 * again, or its edited copy, or nothing, and what waited behind it, up to the next refused intent of the key that
 * nobody has decided about. A refused intent without a key holds nothing and is read from its record. Rows of other
 * topics and keys go on. The first row of a topic that a new producer gets is sent alone of its topic, and its
 * followers wait aside: were it refused and they accepted because the topic has just come, they would be swapped. Then
 * the same for the first row of each partition: a broker that knows nothing of a producer there takes whatever comes
 * first, whichever sequence number it has, also what follows a refused batch.
 */
#ifndef TXB_OUTBOX_RELAY_CORE_H
#define TXB_OUTBOX_RELAY_CORE_H

#include "common/slice.h"
#include "common/uuid.h"
#include "outbox/generations.h"
#include "outbox/key_holds.h"

struct txb_relay_core_options {
  uint32_t read_rows; /* of one branch of a read */
  int64_t read_bytes;
  uint32_t inflight_rows; /* at least 3 reads, else reads are made smaller */
  int64_t inflight_bytes;
  uint32_t few_rows; /* what is asked for while no more comes, unmeasured */
  int64_t few_bytes; /* what they may take, which must have room */
  int64_t lease_us, checkpoint_us;
  int64_t poll_busy_us, poll_idle_us; /* the pause after a poll that read something, and what it grows to */
  int64_t span;        /* numbers above the highest that a read looks at: keeps it to one or two partitions */
  int64_t drain_span;  /* the same for the page of a drain, which is filtered by topic or key */
  uint32_t drain_keys; /* held keys that are drained in one pass */
  int64_t gap_max;     /* so many drawn numbers without a visible row become holes before one stands behind them */
  int64_t list_first_us, list_cap_us;   /* between listings of holders */
  int64_t probe_first_us, probe_cap_us; /* between looks whether a held topic is there */
  int64_t proof_us;                     /* so long a broker surely remembers a producer that is silent */
  uint32_t (*partition_of)(struct txb_slice key, uint32_t partitions); /* as the producer chooses it */
  size_t hole_ranges_max; /* with more, the tail waits: the bound on memory */
  struct txb_generation_policy policy;
};
void txb_relay_core_options_init(struct txb_relay_core_options *options);

/* ---- events ----------------------------------------------------------------------------------------------------- */

enum txb_relay_event_kind {
  TXB_RELAY_ACQUIRED, /* the lease is ours, the position was read with it */
  TXB_RELAY_LOST,     /* the connection is gone, or somebody else has the lease: everything is forgotten */
  TXB_RELAY_POLLED,
  TXB_RELAY_LISTED,
  TXB_RELAY_LOOKED,
  TXB_RELAY_REPORTED, /* delivery reports */
  TXB_RELAY_REPLACED, /* the old producer is gone with all its messages, a new one is there */
  TXB_RELAY_CHECKPOINTED,
  TXB_RELAY_RENEWED,
  TXB_RELAY_RECORDED, /* the refused intent and its hold are committed */
  TXB_RELAY_PROBED,
  TXB_RELAY_DECIDED, /* what persons have decided about */
  TXB_RELAY_TICK,
  TXB_RELAY_STOP, /* send nothing more, wait for reports, write the last checkpoint */
};

struct txb_relay_topic_hold {
  uint32_t topic;
  int64_t lo; /* in a checkpoint: 0 ends it */
  int code;   /* the client's error; 0 when loaded */
};

struct txb_relay_key_hold {
  uint32_t topic;
  struct txb_slice key;
  int64_t lo;   /* in a checkpoint: 0 ends it */
  bool decided; /* in a position: somebody has decided about the intent at its head */
};

struct txb_relay_position {
  int64_t epoch, checkpoint, highest;
  struct txb_uuid instance;
  const struct txb_range *holes;
  size_t hole_count;
  const struct txb_relay_topic_hold *topics;
  size_t topic_count;
  const struct txb_relay_key_hold *keys;
  size_t key_count;
  const int64_t *recorded; /* failed messages above `highest` or in holes: done, though they will be read; ascending */
  size_t recorded_count;
};

enum txb_relay_verdict {                   /* on a row that was read by a drain of keys or out of the failed messages */
                         TXB_VERDICT_NONE, /* it never failed */
                         TXB_VERDICT_RETRY,  /* it goes out, as it was or edited */
                         TXB_VERDICT_CLOSED, /* published meanwhile, or discarded: nothing goes out */
                         TXB_VERDICT_DEAD,   /* waits for a person, and its key with it */
};

struct txb_relay_row {
  int64_t seq;
  struct txb_slice key;      /* borrowed until the row is released; absent: no order */
  struct txb_slice sent_key; /* likewise: of what has an order by another, or none; absent: `key` is sent */
  uint32_t topic;            /* small numbers given by the process, one a topic's name */
  uint32_t bytes;
  uint32_t row;   /* its place in what `owner` is; for the process */
  int64_t failed; /* its number in txb.failed; 0: none */
  enum txb_relay_verdict verdict;
};

struct txb_relay_read {             /* one branch of a poll */
  const struct txb_relay_row *rows; /* ascending */
  size_t count;
  void *owner; /* opaque, kept with each row taken */
  bool cut;    /* a limit may have cut it off */
};

struct txb_relay_answer {
  uint64_t poll;
  int64_t epoch, checkpoint; /* R7: as stored; epoch 0: there is no row */
  struct txb_uuid instance;
  bool recovering;
  bool decided;  /* somebody has decided about failed messages */
  int64_t drawn; /* highest number drawn so far, read before the rows */
  struct txb_snapshot snapshot;
  struct txb_relay_read holes, drain, tail;
};

enum txb_report_outcome {
  TXB_REPORT_ACKED,
  TXB_REPORT_REFUSED,  /* the message, or its batch, is refused for good */
  TXB_REPORT_NO_TOPIC, /* missing, invalid, no right */
  TXB_REPORT_LOST,     /* anything else: the producer must be replaced, the message sent again */
};
struct txb_report {
  uint64_t ticket;
  enum txb_report_outcome outcome;
  int code;
  int32_t partition, partitions; /* of an acknowledged one: where it lies, of how many; 0: not known */
};

struct txb_relay_event {
  enum txb_relay_event_kind kind;
  int64_t now_us;
  union {
    struct txb_relay_position position;
    struct txb_relay_answer answer;
    struct {
      struct txb_holder *holders; /* gets sorted */
      size_t count;
    } listing;
    bool look_found;
    struct {
      const struct txb_report *items;
      size_t count;
    } reports;
    struct {
      uint32_t topic;
      bool there;
    } probe;
    struct {
      const struct txb_relay_key_hold *keys;
      size_t count;
      bool loose; /* also about some without a key */
    } decisions;
  } u;
};

/* ---- actions ---------------------------------------------------------------------------------------------------- */

enum txb_relay_drain {
  TXB_DRAIN_NONE,
  TXB_DRAIN_TOPIC,
  TXB_DRAIN_KEYS,
  TXB_DRAIN_LOOSE, /* failed messages without a key that are to be sent again */
};

struct txb_relay_poll { /* what to ask; pointers are valid until the next poll */
  uint64_t number;
  uint32_t rows; /* of each branch */
  int64_t bytes;
  uint32_t tail_rows; /* of the tail; fewer than `rows` while little comes */
  bool tail_few;      /* then its bytes are not limited: a plain read, cheaper to plan than one that adds up sizes */
  const struct txb_range *holes;
  size_t hole_count;    /* 0: no hole branch */
  int64_t after, bound; /* tail: after < seq <= bound; bound == after: none */
  enum txb_relay_drain drain;
  uint32_t drain_topic;
  int64_t drain_from, drain_to;           /* both belong to it */
  struct txb_key_hold *const *drain_keys; /* those of them that are DRAINING */
  size_t drain_key_count;
};

struct txb_hole_page {
  int64_t page;
  size_t first, count; /* of txb_relay_checkpoint.ranges; 0: the page is empty now */
};

struct txb_relay_checkpoint {            /* valid until the next one */
  int64_t number;                        /* the counter that must be stored, 1 less than what it becomes */
  int64_t highest, watermark, published; /* published: acknowledged since the last one */
  struct txb_hole_page *pages;
  size_t page_count, page_capacity;
  struct txb_range *ranges;
  size_t range_count, range_capacity;
  struct txb_relay_topic_hold *holds;
  size_t hold_count, hold_capacity;
  struct txb_relay_key_hold *keys; /* holds that begin later now, or end; they are there already */
  size_t key_count, key_capacity;
  int64_t *settled; /* failed messages that were published */
  size_t settled_count, settled_capacity;
};

/* Numbers are counted up from, by spans and pages: near the end of bigint that would overflow. Nobody publishes as many;
 * somebody has set the sequence. */
#define TXB_RELAY_NUMBER_MAX (INT64_MAX - (INT64_C(1) << 40))

enum txb_relay_alarm {
  TXB_RELAY_FINE = 0,
  TXB_RELAY_POSITION_CHANGED, /* R7: epoch, instance or checkpoint are not ours: forget all, acquire again */
  TXB_RELAY_RECOVERING,       /* R7: a server in recovery: forget all, connect again later */
  TXB_RELAY_SEQUENCE_AT_END,  /* the sequence is past TXB_RELAY_NUMBER_MAX: stop, a person must look */
  TXB_RELAY_SEQUENCE_BEHIND,  /* R7: the sequence is behind the position: stop, a person must look */
};

struct txb_relay_actions {
  enum txb_relay_alarm alarm;               /* not FINE: the core has forgotten everything; nothing else is set */
  bool poll, list, look, checkpoint, renew; /* to be sent in this order, each with its own answer */
  struct txb_relay_poll read;
  const struct txb_range *look_ranges;
  size_t look_count;
  const struct txb_relay_checkpoint *position; /* of `checkpoint` */
  uint64_t released_to;                        /* tickets below it are done with: their bytes may go */
  bool record;                                 /* store record_ticket's row in txb.failed with a hold of its key */
  uint64_t record_ticket;
  bool probe;
  uint32_t probe_topic;
  bool decide; /* take what persons have decided */
  bool replace_producer;
  bool idle;       /* everything visible is published and checkpointed */
  bool stopped;    /* after STOP: all done */
  int64_t wake_us; /* a TICK is wanted then */
};

/* ---- state ------------------------------------------------------------------------------------------------------ */

enum txb_row_kind { TXB_ROW_TAIL, TXB_ROW_HOLE, TXB_ROW_DRAIN, TXB_ROW_KEY, TXB_ROW_LOOSE };
enum txb_slot_state {
  TXB_SLOT_QUEUED,  /* read */
  TXB_SLOT_SENT,    /* given to the producer, or about to be: txb_relay_core_next_send */
  TXB_SLOT_REFUSED, /* refused alone, being recorded */
  TXB_SLOT_DONE,    /* acknowledged, recorded, or held by reference */
};

struct txb_slot {
  int64_t seq, sent_us;
  int64_t failed;            /* its number in txb.failed; 0: none */
  struct txb_key_hold *hold; /* of a KEY row */
  struct txb_slice key, sent_key;
  void *owner;
  uint32_t row, topic, bytes;
  int code; /* of the last report that was not ACKED */
  uint8_t kind, state;
  bool suspect; /* its batch was refused: is sent alone */
};

enum txb_topic_proof { TXB_TOPIC_UNPROVEN, TXB_TOPIC_PROVING, TXB_TOPIC_PROVEN };
enum txb_topic_hold_state {
  TXB_TOPIC_FREE,
  TXB_TOPIC_HELD,
  TXB_TOPIC_DRAINING, /* rows below lo have been read, those from lo on come by pages */
  TXB_TOPIC_ENDING,   /* all have been read; the stored hold ends when all are acknowledged */
};

struct txb_partition_proof {
  enum txb_topic_proof proof;
  uint64_t prover;
  int64_t acked_us; /* when PROVEN last */
};

struct txb_topic {
  enum txb_topic_proof proof;
  enum txb_topic_hold_state hold;
  uint64_t prover; /* the ticket under way while PROVING */
  uint64_t parked; /* the first ticket that waits for it, or for one of a partition; UINT64_MAX: none */
  struct txb_partition_proof *partitions;
  uint32_t partition_count; /* 0: not known yet */
  int64_t lo;               /* of a hold: the next number to drain */
  int64_t stored_lo;        /* 0: not stored */
  int64_t probe_us;         /* when to look next */
  int64_t pause_us;         /* the pause before that */
  uint32_t draining;        /* drained rows not yet done */
  int code;
};

struct txb_relay_core {
  struct txb_relay_core_options options;
  bool held, stopping, stopped;
  int64_t epoch, checkpoint; /* the counter after the last checkpoint sent */
  struct txb_uuid instance;
  int64_t lease_us, lease_sent_us; /* sending time of the last renewal that was answered, and of the one under way */
  /* reading */
  int64_t highest;          /* every number up to here is published, in the ring, a hole, dead, failed or held */
  int64_t span, drain_span; /* grow while they bring nothing: a gap of any size is passed in few reads */
  struct txb_generations generations;
  bool poll_out, list_out, look_out, checkpoint_out, renew_out, probe_out, everything;
  uint64_t poll_number, poll_checkpoint; /* the last poll sent, and the counter that it must see */
  struct txb_relay_poll read;
  int64_t poll_us, pause_us; /* when the next may go, and the pause before it */
  int64_t list_us, list_pause_us;
  bool came_up; /* the last poll read nothing and was whole */
  bool few;     /* the tail of the last one that was taken was whole, with fewer than few_rows */
  bool full;    /* the next poll waits for room in the ring */
  /* the ring: tickets tail .. head - 1 */
  struct txb_slot *slots;
  uint64_t mask, tail, next, head; /* next: the first that is not yet sent */
  uint64_t lowest_tail;            /* no TAIL row below this ticket is open */
  int64_t bytes;
  uint32_t sent, open_holes; /* slots SENT; HOLE slots not done */
  uint64_t *sends;           /* a ring of tickets to be handed to the producer, in this order */
  uint64_t send_first, send_count;
  bool alone;   /* the one SENT is a suspect */
  bool replace; /* a new producer is wanted: nothing is sent before */
  bool record_out;
  uint64_t record_ticket; /* UINT64_MAX: none */
  /* topics and keys */
  struct txb_topic *topics;
  size_t topic_count;
  size_t hold_count; /* topics that are not FREE */
  struct txb_key_holds keys;
  struct txb_holes recorded; /* done before this relay began, though it will read them */
  /* decisions about failed messages */
  bool decided, decide_out;
  uint64_t decide_poll;         /* the last poll sent before they were asked for */
  struct txb_key_hold **drains; /* keys whose drain a checkpoint has not yet ended */
  size_t drain_count, drain_capacity;
  size_t draining;                /* those that are DRAINING: the pass */
  int64_t pass_at, key_span;      /* of the pass: the next number, and how many a page looks at */
  struct txb_key_hold **released; /* gone with the last checkpoint, which shows their keys */
  size_t released_count, released_capacity;
  bool loose_wanted, loose_round; /* a round over those without a key is due, or under way */
  int64_t loose_after;            /* numbers up to it were read in this round */
  uint32_t loose_open;            /* rows of it not yet done */
  enum txb_relay_drain drained;   /* the kind of the last page: kinds take turns */
  int64_t *settled;               /* failed messages published since the last checkpoint */
  size_t settled_count, settled_capacity;
  /* checkpoints */
  bool dirty;
  int64_t checkpoint_us; /* when the last one was sent */
  int64_t stored_highest;
  int64_t published, published_total;
  struct txb_relay_checkpoint view;
  /* counted for people */
  int64_t polls, polls_thrown_away, rows_read, unasked_rows;
};

/* Allocates the ring. FATAL: no memory. */
enum txb_rc txb_relay_core_init(struct txb_relay_core *core, const struct txb_relay_core_options *options,
                                struct txb_error *err) TXB_MUST_CHECK;
void txb_relay_core_fini(struct txb_relay_core *core);

/* Takes in one event, says what is to be done now. FATAL (no memory): the core must be thrown away; what is stored
 * is a position to begin anew from. */
enum txb_rc txb_relay_core_step(struct txb_relay_core *core, const struct txb_relay_event *event,
                                struct txb_relay_actions *actions, struct txb_error *err) TXB_MUST_CHECK;

/* Somebody has just committed intents: the next poll is due at once, and the pauses behind it begin small again. */
void txb_relay_core_nudge(struct txb_relay_core *core, int64_t now_us);

/* The next ticket to hand to the producer; false: none. Its slot is TXB_SLOT_SENT. */
bool txb_relay_core_next_send(struct txb_relay_core *core, uint64_t *ticket_out);
/* The slot of a ticket that is not yet released; for a ticket released by the last step too, until the next step. */
const struct txb_slot *txb_relay_core_slot(const struct txb_relay_core *core, uint64_t ticket);

#endif
