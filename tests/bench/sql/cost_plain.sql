-- pgbench: the same with a row in a table of the outbox's columns.
\set id random(0, 9999)
BEGIN;
UPDATE bench.account SET balance = balance + 1 WHERE id = :id;
INSERT INTO bench.plain (id, topic, key, type, payload, content_type)
  VALUES (gen_random_uuid(), 'bench.cost', :id::text, 'bench.made', decode(repeat('61', 200), 'hex'),
          'application/octet-stream');
COMMIT;
