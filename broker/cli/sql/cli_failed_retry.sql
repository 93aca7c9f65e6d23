SELECT r.number, r.done, r.state, r.why FROM txb.failed_retry($1::int8[], $2::text, $3::text, $4::jsonb) AS r
