-- Replay jobs that are at work or paused, and those that have failed messages left.
SELECT txb.job_show(n.number)
  FROM (SELECT o.number FROM txb.job AS o WHERE o.state IN ('running', 'paused')
        UNION
        SELECT l.job FROM txb.failed AS f JOIN txb.job_lane AS l ON l.lane = -f.partition
         WHERE f.side = 'consumer' AND f.partition < 0 AND f.state IN ('retrying', 'held', 'dead')) AS n
 ORDER BY n.number
