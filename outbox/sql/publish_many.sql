-- $1 topics, $2 keys, $3 types, $4 payloads, $5 content_types, $6 headers, $7 ids, $8 not_befores, $9 strict_orders
SELECT p.id FROM txb.publish_many($1, $2, $3, $4, $5, $6, $7, $8, $9) AS p (id)
