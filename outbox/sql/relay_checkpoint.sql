-- $1 source, $2 epoch, $3 instance, $4 checkpoint, $5 highest, $6 watermark, $7 published, $8 lease_ms, $9 pages, $10
-- their holes
SELECT txb.relay_checkpoint($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
