-- Answers a command: $1 id, $2 topic, $3 key, $4 headers, $5 what it said, $6 output (text), $7 reason, $8 whether its handler ran.
SELECT txb.command_leave(ROW(NULL, $1, $2, NULL, NULL, $3, NULL, NULL, NULL, NULL, $4, NULL)::txb.message,
                         $5, $6::text::jsonb, $7, $8)
