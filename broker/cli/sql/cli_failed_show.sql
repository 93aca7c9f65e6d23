SELECT s.message, s.key, s.payload, s.history, s.editions, s.head, s.behind, s.behind_first, s.waits_in_outbox
  FROM txb.failed_show($1::int8) AS s
