SELECT txb.publish($1::text, $2::text, 'transfer.made',
                   pg_catalog.jsonb_build_object('transfer', $3::uuid, 'from', $4::int4, 'to', $5::int4,
                                                 'amount', $6::int8, 'number', $7::int8))
