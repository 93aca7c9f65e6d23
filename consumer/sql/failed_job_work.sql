-- One step of a job about failed messages that nobody else is at, if there is one.
SELECT w.number, w.verb, w.state, w.done, w.skipped, w.messages FROM txb.failed_job_work($1::text, $2::text) AS w
