-- pgbench: the same with an intent by plain INSERT.
\set id random(0, 9999)
BEGIN;
UPDATE bench.account SET balance = balance + 1 WHERE id = :id;
INSERT INTO txb.outbox (topic, key, type, payload, content_type)
  VALUES ('bench.cost', :id::text, 'bench.made', decode(repeat('61', 200), 'hex'), 'application/octet-stream');
COMMIT;
