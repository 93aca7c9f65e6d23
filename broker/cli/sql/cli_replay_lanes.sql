-- What the lanes of a job that reads Kafka were given, and in which cluster.
SELECT l.topic, l.from_partition, l.seq_from, l.seq_to, j.cluster_id
  FROM txb.job AS j
  JOIN txb.job_lane AS l ON l.job = j.number
 WHERE j.number = $1::int8 AND j.cluster_id IS NOT NULL
 ORDER BY l.topic, l.from_partition
