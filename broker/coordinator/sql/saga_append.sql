SELECT txb.saga_append($1::uuid[], $2::timestamptz[], $3::int[], $4::timestamptz[], $5::text[], $6::text[], $7::int[],
                       $8::jsonb[], $9::text[], $10::text[], $11::jsonb[], $12::timestamptz[], $13::uuid[], $14::int[],
                       $15::bigint[])
