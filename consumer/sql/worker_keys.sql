-- Held keys of a partition, when its next failed message is due, and how many are held in the group: one snapshot. A
-- row without a key: nothing is held.
SELECT k.keys_version, k.next_due_ms, k.held, k.group_held, k.key, k.messages
  FROM txb.failed_keys($1, $2, $3, $4) AS k
