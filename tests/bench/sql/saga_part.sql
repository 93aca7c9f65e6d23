-- A participant of the saga measurements: one row of work an action, and the same back for a compensation.
CREATE FUNCTION bench.step(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
BEGIN
  UPDATE bench.account SET balance = balance + CASE WHEN m.type LIKE '%.cancel' THEN -1 ELSE 1 END
   WHERE id = abs(hashtext(m.headers ->> 'txb-saga')) % 10000;
  RETURN txb.ok('{"done": true}');
END
$$;
