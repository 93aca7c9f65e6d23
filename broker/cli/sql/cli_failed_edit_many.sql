SELECT e.number, e.done, e.state, e.why, e.new_number, e.new_id
  FROM txb.failed_edit_many($1::int8[], $2::jsonb, $3::text, $4::text, $5::jsonb) AS e
