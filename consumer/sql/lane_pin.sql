-- Retention keeps the intents from $2 on, for what $3 says.
SELECT txb.outbox_pin_set($1, $2, $3)
