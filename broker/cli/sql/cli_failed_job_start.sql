SELECT s.number, s.messages FROM txb.failed_job_start($1::text, $2::jsonb, $3::text, $4::text) AS s
