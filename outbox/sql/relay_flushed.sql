-- R8: whether everything that the poll could see is on disk. $1 insert position of the poll. When the last record ends
-- with a page, that position is already behind the next page's header (24 bytes, 40 in a segment's first page), which
-- nobody flushes. Exactly there: one byte more belongs to a record.
SELECT f.lsn >= $1::pg_catalog.pg_lsn
       OR ((f.lsn - '0/0'::pg_catalog.pg_lsn) % pg_catalog.current_setting('wal_block_size')::pg_catalog.int8 = 0
           AND $1::pg_catalog.pg_lsn - f.lsn
               = CASE WHEN (f.lsn - '0/0'::pg_catalog.pg_lsn)
                           % pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) = 0
                      THEN 40 ELSE 24 END)
  FROM pg_catalog.pg_current_wal_flush_lsn() AS f (lsn)
