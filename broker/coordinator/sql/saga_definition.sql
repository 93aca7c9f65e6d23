SELECT d.body, d.nested FROM txb.saga_definition AS d WHERE d.name = $1 AND d.version = $2
