-- Only for the planted bug lane_fence_ignored: opens a lane's batch whatever the live partitions have set aside since it
-- read the held keys.
SELECT txb.batch_open($1, $2, $3, $4, $5, $6, $7, $8, $9,
                      (c.keys_version + (SELECT coalesce(sum(o.keys_version + o.keys_taken), 0::numeric)
                                           FROM txb.consumer_offset AS o
                                          WHERE o.group_name = $1 AND o.topic = $2 AND o.partition >= 0))::bigint),
       set_config('statement_timeout', $11, true)
  FROM txb.consumer_offset AS c
 WHERE c.group_name = $1 AND c.topic = $2 AND c.partition = $3 AND $10::bigint IS NOT NULL
