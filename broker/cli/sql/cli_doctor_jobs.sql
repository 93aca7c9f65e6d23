-- The lanes of running replay jobs that are not at their end.
SELECT j.number, l.topic || CASE WHEN l.from_partition < 0 THEN '' ELSE '[' || l.from_partition || ']' END, l.last_error,
       coalesce(l.lease_until > pg_catalog.clock_timestamp(), false) AS owned, j.group_name
  FROM txb.job AS j
  JOIN txb.job_lane AS l ON l.job = j.number
 WHERE j.state = 'running' AND NOT l.done
 ORDER BY j.number, l.topic, l.from_partition
 LIMIT 100
