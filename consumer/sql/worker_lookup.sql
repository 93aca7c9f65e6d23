-- Where a group stands in a partition, and in how many partitions of the topic it stands at all (W13), lanes of replays
-- aside: a group that only was replayed into begins by its start rule. Whether somebody has changed its failed messages.
SELECT c.next_offset,
       (SELECT count(*) FROM txb.consumer_offset AS o
         WHERE o.group_name = $1 AND o.topic = $2 AND o.partition >= 0) AS known,
       c.keys_version
  FROM (VALUES ($3::int)) AS v (partition)
  LEFT JOIN txb.consumer_offset AS c ON c.group_name = $1 AND c.topic = $2 AND c.partition = v.partition
