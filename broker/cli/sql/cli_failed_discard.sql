SELECT d.number, d.done, d.state, d.why FROM txb.failed_discard($1::int8[], $2::text, $3::text, $4::jsonb) AS d
