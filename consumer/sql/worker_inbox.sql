-- Which of the ids ($2, sorted and distinct) are new to the group. Sorted, so that two batches with ids in common don't
-- deadlock.
INSERT INTO txb.inbox (group_name, message_id) SELECT $1, u.id FROM unnest($2::uuid[]) AS u (id)
ON CONFLICT DO NOTHING RETURNING message_id
