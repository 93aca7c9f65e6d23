SELECT txb.offset_register($1, $2, $3::int[], $4::bigint[], $5)
