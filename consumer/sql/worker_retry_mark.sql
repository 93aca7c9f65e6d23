-- The failed messages that are due, all of one run, under a committed marker from then on (W10); a row without a number:
-- none.
SELECT m.keys_version, m.next_due_ms, m.number, m.attempts, m.deaths, m.held, m."offset", m.id, m.source, m.key, m.type,
       m."time", m.payload, m.content_type, m.headers, m.run
  FROM txb.retry_mark($1, $2, $3, $4, $5, $6) AS m
