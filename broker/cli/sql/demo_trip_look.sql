-- How many sagas were begun, how many have ended, and how far the agency's relay is behind.
SELECT (SELECT count(*) FROM txb.saga), (SELECT count(*) FROM txb.saga_end),
       (SELECT coalesce(pg_catalog.pg_sequence_last_value('txb.outbox_seq_seq'), 0) - coalesce(max(r.watermark), 0)
          FROM txb.relay AS r)
