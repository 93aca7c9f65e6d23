SELECT txb.failed_job_step($1::int8, $2::text)
