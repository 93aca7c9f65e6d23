-- What sagas that would begin lock, one element a name: $1 sagas, $2 when they began, $3 roots, $4 names, $5 whether they wait.
-- $6: roots of the batch that may end. name and holder: of those that are not granted.
SELECT l.nth, l.granted, l.name, l.holder
  FROM txb.saga_lock($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::boolean[], $6::uuid[]) AS l
