-- How long this group wants ids remembered ($2, milliseconds), and the longest that any group of the database wants.
SELECT (extract(epoch FROM txb.inbox_keep($1, $2::bigint::float8 * interval '1 millisecond')) * 1000::numeric)::bigint
