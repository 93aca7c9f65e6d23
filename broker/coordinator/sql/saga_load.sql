-- The sagas of a batch: $1 ids, $2 when they began.
SELECT l.nth, l.name, l.version, l.key, l.input, l.deadline_at, l.reply_topic, l.parent, l.ended, l.now
  FROM txb.saga_load($1::uuid[], $2::timestamptz[]) AS l
