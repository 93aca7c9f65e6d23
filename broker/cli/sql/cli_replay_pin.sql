SELECT txb.outbox_pin_set($1::text, $2::int8, $3::text)
