-- What happened to them so far, in order.
SELECT e.nth, e.n, e.at, e.event, e.step, e.sending, e.output, e.reason, e.timer_at
  FROM txb.saga_events($1::uuid[], $2::timestamptz[]) AS e
