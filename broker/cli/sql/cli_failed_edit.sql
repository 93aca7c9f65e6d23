SELECT e.done, e.state, e.why, e.new_number, e.new_id
  FROM txb.failed_edit($1::int8, $2::bytea, $3::text, $4::jsonb, $5::text, $6::text, $7::jsonb) AS e
