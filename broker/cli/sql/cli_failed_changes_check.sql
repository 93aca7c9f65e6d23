-- Raises what stands against changes that can be made to no failed message.
SELECT txb.failed_changes_check($1::jsonb)
