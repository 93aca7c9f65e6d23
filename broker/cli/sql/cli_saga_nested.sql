-- What is deployed of a saga: $1 its name, $2 its version (null: the newest). No row: nothing.
SELECT d.version, d.body, d.depth, d.nested FROM txb.saga_definition AS d
 WHERE d.name = $1 AND ($2::int IS NULL OR d.version = $2) ORDER BY d.version DESC LIMIT 1
