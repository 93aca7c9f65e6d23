-- R8: whether everything that the poll could see is on disk. $1 insert position of the poll
SELECT pg_catalog.pg_current_wal_flush_lsn() >= $1::pg_catalog.pg_lsn
