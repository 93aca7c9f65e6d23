SELECT s.next_due_ms, s.held, s.group_held, s.key FROM txb.failed_condemn($1, $2, $3, $4, $5, $6, $7, $8) AS s
