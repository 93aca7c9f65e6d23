-- A relay's session plans each of its reads anew, since their bounds decide which partitions are touched (outbox/relay.c).
-- What moves its position is the same each time, and was planned anew all the same: three plans a checkpoint, half of its
-- cost.

SET LOCAL ROLE txb_owner;

ALTER FUNCTION txb.relay_checkpoint(text, bigint, uuid, bigint, bigint, bigint, bigint, bigint, bigint[], text[])
  SET plan_cache_mode = auto;

RESET ROLE;
