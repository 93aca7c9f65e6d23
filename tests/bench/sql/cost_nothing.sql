-- pgbench: the application's transaction as it is without publishing.
\set id random(0, 9999)
BEGIN;
UPDATE bench.account SET balance = balance + 1 WHERE id = :id;
COMMIT;
