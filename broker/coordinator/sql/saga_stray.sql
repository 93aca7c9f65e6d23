SELECT txb.saga_stray_add($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[])
