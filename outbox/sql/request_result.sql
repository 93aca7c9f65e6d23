SELECT r.state, r.answer, r.output::text, r.reason FROM txb.request_result($1) AS r
