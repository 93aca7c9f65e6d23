-- Two more decisions about a stuck step, beside retry, mark_done and mark_undone:
--
--   skip   the saga goes on without it. Of an action behind the pivot its participant is asked at the barrier first, and
--          it is left out once it can't take effect any more (S3); a compensation is given up, and the effect stands
--   edit   it is tried again, from now on with another payload, which takes the place of what the definition makes
--
--   txb.saga_decide(id uuid, decision text, step text, expected int, reason text, person text, payload jsonb = null)
--       returns uuid

SET LOCAL ROLE txb_owner;

DROP FUNCTION txb.saga_decide(uuid, text, text, int, text, text);

-- What the coordinator makes of a payload, a command and an entry, must fit wherever it goes. The audit says that there was
-- one, and not what it was: it may hold what few are to see, and is kept with the saga.
CREATE FUNCTION txb.saga_decide(id uuid, decision text, step text, expected int, reason text, person text,
                                payload jsonb DEFAULT NULL) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  s record;
  e record;
  seen int;
  size_max CONSTANT int := 983616;
BEGIN
  IF decision IS NULL OR decision NOT IN ('retry', 'mark_done', 'mark_undone', 'cancel', 'skip', 'edit') THEN
    RAISE EXCEPTION 'txb.saga_decide: decision is %, it must be retry, mark_done, mark_undone, cancel, skip or edit',
      coalesce(decision, 'null') USING ERRCODE = '22023';
  ELSIF coalesce(saga_decide.reason, '') = '' THEN
    RAISE EXCEPTION 'txb.saga_decide: a reason is needed' USING ERRCODE = '22023';
  ELSIF (decision = 'cancel') <> (saga_decide.step IS NULL) THEN
    RAISE EXCEPTION 'txb.saga_decide: %', CASE WHEN decision = 'cancel' THEN 'cancel is about the whole saga, not about a step'
                                               ELSE decision || ' needs the name of a step' END USING ERRCODE = '22023';
  ELSIF (decision = 'edit') <> (saga_decide.payload IS NOT NULL) THEN
    RAISE EXCEPTION 'txb.saga_decide: %', CASE WHEN decision = 'edit' THEN 'edit needs a payload'
                                               ELSE decision || ' takes no payload' END USING ERRCODE = '22023';
  ELSIF octet_length(saga_decide.payload::text) > size_max THEN
    RAISE EXCEPTION 'txb.saga_decide: the payload has % bytes, at most % are allowed', octet_length(saga_decide.payload::text),
      size_max USING ERRCODE = '22023';
  ELSIF txb.json_number_problem(saga_decide.payload, 'the payload') IS NOT NULL THEN
    RAISE EXCEPTION 'txb.saga_decide: %', txb.json_number_problem(saga_decide.payload, 'the payload')
      USING ERRCODE = '22023';
  END IF;
  SELECT g.id, g.started_at, g.name INTO s FROM txb.saga AS g WHERE g.id = saga_decide.id;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no saga %', saga_decide.id USING ERRCODE = '22023';
  END IF;
  SELECT d.state, d.ended_at INTO e FROM txb.saga_end AS d WHERE d.saga_id = s.id AND d.started_at = s.started_at;
  IF FOUND THEN
    RAISE EXCEPTION 'saga % has ended at %: it is %', s.id, e.ended_at, e.state USING ERRCODE = '55000';
  END IF;
  SELECT coalesce(max(v.n), 0) INTO seen FROM txb.saga_event AS v WHERE v.saga_id = s.id AND v.started_at = s.started_at;
  IF expected <> seen THEN
    RAISE EXCEPTION 'saga % has gone on since: it is at event %, not at %', s.id, seen, expected
      USING ERRCODE = '55000', HINT = 'Look at it again: txbroker saga show.';
  END IF;
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason)
  VALUES (nullif(saga_decide.person, ''), 'saga ' || decision,
          jsonb_strip_nulls(jsonb_build_object('saga', s.id, 'step', saga_decide.step, 'event', seen,
                                               'payload', CASE WHEN decision = 'edit' THEN 'edited' END)),
          1, 1, saga_decide.reason);
  -- Its own nulls stay what they are.
  RETURN txb.publish((SELECT c.topic FROM txb.saga_coordinator AS c), s.id::text, 'txb.saga.decision',
    jsonb_strip_nulls(jsonb_build_object('decision', decision, 'step', saga_decide.step, 'seen', seen,
      'reason', saga_decide.reason,
      'who', session_user || coalesce(' (' || nullif(saga_decide.person, '') || ')', '')))
      || CASE WHEN saga_decide.payload IS NULL THEN '{}' ELSE jsonb_build_object('payload', saga_decide.payload) END,
    txb.saga_reference(s.id, s.started_at));
END
$$;
COMMENT ON FUNCTION txb.saga_decide(uuid, text, text, int, text, text, jsonb) IS
  'Sends a person''s decision to the coordinator; returns the id of that message. expected: the number of the last event '
  'that the person has seen; null: whatever happened since. payload: of an edit, what the step''s command says from then on';
GRANT EXECUTE ON FUNCTION txb.saga_decide(uuid, text, text, int, text, text, jsonb) TO txb_admin;

COMMENT ON COLUMN txb.saga_event.output IS 'What the step gave; of an edit what its command says from then on';

RESET ROLE;
