-- One step of dropping what is published and old enough; answers with the statement to send next. $1 source, $2
-- milliseconds
SELECT d.statement, d.partition FROM txb.partition_drop($1, $2 * interval '1 millisecond') AS d
