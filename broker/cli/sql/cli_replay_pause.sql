SELECT txb.job_pause($1::int8, $2::text, $3::text)
