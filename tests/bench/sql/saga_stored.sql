-- Sagas that ended long ago, with a history as the coordinator writes it.
CREATE PROCEDURE bench.store(sagas bigint) LANGUAGE plpgsql AS $$
DECLARE
  done bigint := 0;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', false);
  WHILE done < sagas LOOP
    CREATE TEMP TABLE stock ON COMMIT DROP AS
      SELECT txb.uuid_v7() AS id, clock_timestamp() AS at FROM generate_series(done + 1, least(done + 20000, sagas));
    INSERT INTO txb.saga (id, started_at, name, version, input) SELECT s.id, s.at, 'trip', 1, '{"amount": 1}' FROM stock AS s;
    INSERT INTO txb.saga_event (saga_id, started_at, n, at, event, step, output)
    SELECT s.id, s.at, e.n, s.at, e.event, e.step, e.output::jsonb
      FROM stock AS s,
           (VALUES (1, 'start', NULL, NULL), (2, 'begin', 'flight', NULL), (3, 'effect', 'flight', '{"done": true}'),
                   (4, 'begin', 'hotel', NULL), (5, 'effect', 'hotel', '{"done": true}'), (6, 'begin', 'payment', NULL),
                   (7, 'effect', 'payment', '{"done": true}'), (8, 'end', NULL, NULL)) AS e (n, event, step, output);
    INSERT INTO txb.saga_end (saga_id, started_at, ended_at, state) SELECT s.id, s.at, s.at, 'completed' FROM stock AS s;
    done := done + 20000;
    COMMIT;
  END LOOP;
END
$$;
