-- Commands, timers, ends and answers to parents, in this order: one row of txb.publish_many each.
SELECT count(*) FROM txb.publish_many($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::jsonb[], $7::uuid[],
                                      $8::timestamptz[])
