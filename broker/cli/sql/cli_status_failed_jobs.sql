-- Jobs about failed messages that are not over.
SELECT r.job FROM txb.failed_job_running() AS r
