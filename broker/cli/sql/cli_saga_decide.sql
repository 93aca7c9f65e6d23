SELECT d.message, d.refused FROM txb.saga_decide($1, $2, $3, $4, $5, $6, $7::text::jsonb) AS d
