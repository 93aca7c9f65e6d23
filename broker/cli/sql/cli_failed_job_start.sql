SELECT s.number, s.messages, s.served
  FROM txb.failed_job_start($1::text, $2::jsonb, $3::text, $4::text, $5::jsonb, $6::text) AS s
