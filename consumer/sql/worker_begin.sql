-- READ COMMITTED whatever the database's default is: what depends on the locked row is read by a later statement with a
-- snapshot of its own (W2).
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE
