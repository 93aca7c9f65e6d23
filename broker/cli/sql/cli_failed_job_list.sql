SELECT l.job FROM txb.failed_job_list($1::int8, $2::int4) AS l
