SELECT r.state, r.output::text, r.reason FROM txb.saga_result($1) AS r
