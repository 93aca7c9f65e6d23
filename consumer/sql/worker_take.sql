SELECT t.epoch, t.next_offset, t.last_id, t.last_timestamp_ms, t.suspect, t.suspect_offset, t.suspect_count,
       t.suspect_deaths, t.suspect_died, t.stalled_offset, t.attempts, t.due_ms, t.last_offset, t.keys_version,
       coalesce(cardinality(t.suspect_failed), 0) AS suspect_failed_count, t.suspect_failed[1] AS suspect_failed_first
  FROM txb.offset_take($1, $2, $3, $4, $5, $6) AS t
