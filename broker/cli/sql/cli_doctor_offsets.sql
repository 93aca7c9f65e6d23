-- Positions in Kafka; negative partitions are lanes of replay jobs.
SELECT c.topic, c.partition, c.next_offset, c.cluster_id, c.stalled_offset, c.last_error, c.attempts,
       c.last_outcome = 'stopped' AS stopped
  FROM txb.consumer_offset AS c
 WHERE c.group_name = $1::text AND c.partition >= 0
 ORDER BY c.topic, c.partition
