SELECT txb.job_rate($1::int8, $2::int8, $3::text)
