-- Only for the planted bug worker_no_epoch_check: opens the batch at whatever epoch and position the row has.
SELECT txb.batch_open($1, $2, $3, c.epoch, c.next_offset, greatest($6, c.next_offset + 1), $7, $8, $9, c.keys_version),
       set_config('statement_timeout', $11, true)
  FROM txb.consumer_offset AS c
 WHERE c.group_name = $1 AND c.topic = $2 AND c.partition = $3 AND ($4::bigint IS NOT NULL OR $5::bigint IS NOT NULL)
   AND $10::bigint IS NOT NULL
