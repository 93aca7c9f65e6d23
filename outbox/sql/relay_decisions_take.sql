-- $1 source, $2 epoch, $3 instance
SELECT d.topic, d.key FROM txb.relay_decisions_take($1, $2, $3) AS d
