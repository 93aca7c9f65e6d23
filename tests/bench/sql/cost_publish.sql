-- pgbench: the same with an intent by txb.publish.
\set id random(0, 9999)
BEGIN;
UPDATE bench.account SET balance = balance + 1 WHERE id = :id;
SELECT txb.publish('bench.cost', :id::text, 'bench.made', decode(repeat('61', 200), 'hex'));
COMMIT;
