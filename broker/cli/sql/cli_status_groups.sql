-- A row per position in Kafka; a group that only replay jobs serve yet (their lanes are negative partitions) has one of
-- nulls.
SELECT g.group_name, c.topic, c.partition, c.next_offset, c.epoch, c.owner, c.busy,
       c.consumed, c.applied, c.duplicate, c.failed,
       c.stalled_offset,
       (extract(epoch FROM pg_catalog.clock_timestamp() - c.stalled_since) * 1000)::int8 AS stalled_age_ms,
       c.attempts,
       (extract(epoch FROM c.next_attempt_at - pg_catalog.clock_timestamp()) * 1000)::int8 AS next_attempt_in_ms,
       c.last_error, c.last_sqlstate, c.last_outcome,
       c.suspect_offset, c.suspect_deaths,
       (extract(epoch FROM pg_catalog.clock_timestamp() - c.updated_at) * 1000)::int8 AS updated_age_ms,
       (SELECT pg_catalog.jsonb_object_agg(i.why, i.count) FROM txb.reply_ignored AS i
         WHERE i.topic = c.topic AND i.partition = c.partition) AS replies_ignored
  FROM (SELECT DISTINCT o.group_name FROM txb.consumer_offset AS o) AS g
  LEFT JOIN txb.consumer_offset AS c ON c.group_name = g.group_name AND c.partition >= 0
 ORDER BY g.group_name, c.topic, c.partition
