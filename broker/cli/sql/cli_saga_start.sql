SELECT txb.saga_start($1, $2::text::jsonb, $3, $4::int8 * interval '1 millisecond', $5, $6)
