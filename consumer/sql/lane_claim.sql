-- The lanes that this worker has from now on, if it may: those that it had, and free ones up to $5 in all; at least one row.
-- $1 group, $2 owner, $3 instance, $4 lease in milliseconds, $6 whether it is to be told if the group waits for a job. In
-- passing: whether there are jobs about failed messages to go on with.
SELECT w.waits, l.lane, l.job, l.topic, l.source, l.seq_to, l.position, l.run, l.rate_max, l.keys, l.types, l.time_from,
       l.time_to, l.then_live, l.wants_pass, l.job_lowest, l.job_left, current_database()::text AS database, l.pin,
       w.decides, l.cluster_id, l.from_partition, l.to_topic, l.first_seq, l.first_id
  FROM (SELECT CASE WHEN $6 THEN txb.group_waits($1) ELSE false END AS waits,
               txb.failed_job_open($1) AS decides) AS w
  LEFT JOIN LATERAL txb.lane_claim($1, $2, $3, $4, $5, copies => true) AS l ON true
