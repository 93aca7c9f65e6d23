SELECT txb.job_resume($1::int8, $2::text, $3::text)
