-- What the barrier says about a command: $1 its headers.
SELECT e.runs, e.answer, e.output::text, e.reason FROM txb.command_enter($1) AS e
