-- Gives back what sagas lock that have ended, and wakes the next ones: $1 sagas, $2 their roots.
SELECT txb.saga_unlock($1::uuid[], $2::uuid[])
