-- Two messages in a hundred that their handler can't apply, in every way that there is. Which ones, their ids say, so that a message is the same poison
-- whenever it comes, and the tests know it without asking (poison.py).
CREATE TABLE bank.mended (id uuid PRIMARY KEY);
GRANT ALL ON bank.mended TO PUBLIC;

CREATE FUNCTION bank.poison(id uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN (get_byte(b, 14) * 256 + get_byte(b, 15)) % 50 = 0
              THEN ('{late,again,conflict,cause,data,refused,hopeless}'::text[])[1 + get_byte(b, 13) % 7] END
    FROM (SELECT uuid_send(id)) AS u (b)
$$;

-- It fails behind its effects: all of them must be undone. An edited copy has the effect of the message that it stands for, under that one's id.
CREATE FUNCTION bank.apply_poisoned(m txb.message) RETURNS txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  v_body jsonb := convert_from(m.payload, 'UTF8')::jsonb;
  v_kind text := CASE WHEN NOT v_body ? 'of' THEN bank.poison(m.id) ELSE 'edited' END;
  v_done txb.outcome;
BEGIN
  m.id := coalesce((v_body->>'of')::uuid, m.id);
  v_done := bank.apply(m);
  IF v_kind = 'late' AND m.attempt < 3 THEN
    RAISE EXCEPTION 'not yet: attempt %', m.attempt;
  ELSIF v_kind = 'again' AND m.attempt < 3 THEN
    RETURN txb.retry('10 ms', 'busy');
  ELSIF v_kind = 'conflict' AND random() < 0.5 THEN
    RAISE EXCEPTION 'somebody else was first' USING ERRCODE = '40001';
  ELSIF v_kind = 'cause' AND NOT EXISTS (SELECT FROM bank.mended AS d WHERE d.id = m.id) THEN
    RAISE EXCEPTION 'account % is closed', v_body->>'to';
  ELSIF v_kind = 'data' THEN
    PERFORM 1 / 0;
  ELSIF v_kind = 'refused' THEN
    RETURN txb.refuse('unknown currency');
  ELSIF v_kind = 'hopeless' THEN
    RETURN txb.dead('no such account');
  END IF;
  RETURN v_done;
END $$;

CREATE FUNCTION bank.apply_poisoned_batch(m txb.message[]) RETURNS SETOF txb.outcome LANGUAGE plpgsql AS $$
DECLARE
  v_one txb.message;
BEGIN
  FOREACH v_one IN ARRAY m LOOP
    RETURN NEXT bank.apply_poisoned(v_one);
  END LOOP;
END $$;
