-- $1 topic, $2 key, $3 type, $4 payload, $5 headers, $6 id, $7 not_before, $8 strict_order, $9 content_type
SELECT txb.publish($1, $2, $3, $4::bytea, $5, $6, $7, $8, $9)
