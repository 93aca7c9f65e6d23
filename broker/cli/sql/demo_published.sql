-- Intents in the outbox that stand for a committed transfer.
SELECT count(DISTINCT t.id)
  FROM txb.outbox AS o
  JOIN bank.transfer AS t ON t.id = (pg_catalog.convert_from(o.payload, 'UTF8')::jsonb->>'transfer')::uuid
