SELECT c.number, c.done, c.state, c.why FROM txb.failed_copy($1::int8[], $2::text, $3::text, $4::text, $5::jsonb) AS c
