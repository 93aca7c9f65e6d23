-- Which of the ids the group has applied already, in the run $3 (0: live). Behind worker_retry_open.sql, so that it sees
-- what that waited for.
SELECT i.message_id FROM txb.inbox AS i
 WHERE i.group_name = $1 AND i.run = $3::bigint AND i.message_id = ANY ($2::uuid[])
