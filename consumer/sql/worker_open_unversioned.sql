-- Only for the planted bug worker_keys_version_ignored: whatever somebody else has done to the failed messages.
SELECT txb.batch_open($1, $2, $3, $4, $5, $6, $7, $8, $9, c.keys_version), set_config('statement_timeout', $11, true)
  FROM txb.consumer_offset AS c
 WHERE c.group_name = $1 AND c.topic = $2 AND c.partition = $3 AND $10::bigint IS NOT NULL
