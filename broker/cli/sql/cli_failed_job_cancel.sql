SELECT txb.failed_job_cancel($1::int8, $2::text, $3::text)
