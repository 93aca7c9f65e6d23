-- Where a group stands in a partition, and in how many partitions of the topic it stands at all (W13); whether somebody
-- has changed its failed messages: of a lane also those of the live partitions (txb.live_keys_version).
SELECT c.next_offset, (SELECT count(*) FROM txb.consumer_offset AS o
                        WHERE o.group_name = $1 AND o.topic = $2 AND o.partition >= 0) AS known,
       (c.keys_version + (SELECT coalesce(sum(o.keys_version + o.keys_taken), 0::numeric) FROM txb.consumer_offset AS o
                           WHERE v.partition < 0 AND o.group_name = $1 AND o.topic = $2 AND o.partition >= 0))::bigint
  FROM (VALUES ($3::int)) AS v (partition)
  LEFT JOIN txb.consumer_offset AS c ON c.group_name = $1 AND c.topic = $2 AND c.partition = v.partition
