-- The keys that open failed messages of the group hold in these topics, the first ten thousand.
SELECT DISTINCT f.key
  FROM txb.failed AS f
 WHERE f.side = 'consumer' AND f.holds AND f.state IN ('retrying', 'held', 'dead')
   AND f.group_name = $1::text AND f.topic = ANY ($2::text[])
 LIMIT 10000
