-- Ends the connection that made databases, if it is still there, and waits until it is gone.
SELECT pg_catalog.pg_terminate_backend(pid, 5000)
  FROM pg_catalog.pg_stat_activity
 WHERE application_name = $1::text AND pid <> pg_catalog.pg_backend_pid()
