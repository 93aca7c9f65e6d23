SELECT txb.outbox_unpin($1::text)
