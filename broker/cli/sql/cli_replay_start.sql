SELECT s.number, s.existed
  FROM txb.job_start($9::text, $10::text, $1::text, $4::text[], nullif($5::bytea[], '{}'), nullif($6::text[], '{}'),
                     $7::timestamptz, $8::timestamptz, $2::int8, $3::int8, $11::bool, $12::bool, $13::int8, $14::text,
                     $15::text, nullif($16::text[], '{}'), nullif($17::int4[], '{}'), nullif($18::int8[], '{}'),
                     nullif($19::int8[], '{}'), $20::text, $21::text, nullif($22::int4[], '{}'),
                     nullif($23::int8[], '{}'), nullif($24::uuid[], '{}')) AS s
