-- A decision about a saga that can't be is recorded as well: the saga has ended, or has gone on since the person looked.
-- It is refused with a value and not with an error, which would take its row of txb.audit along.
--
--   txb.saga_decide(id uuid, decision text, step text, expected int, reason text, person text, payload jsonb = null)
--       returns (message uuid, refused text)   one of the two
--
-- What names no saga, or is malformed, stays an error: there is nothing that it was about.

SET LOCAL ROLE txb_owner;

ALTER TABLE txb.audit ADD COLUMN refused text;
COMMENT ON COLUMN txb.audit.refused IS 'Why a saga''s decision was refused on the spot; null: it was not, or is about something else';
COMMENT ON COLUMN txb.audit.filter IS
  'What it was given; of a saga''s decision also the id of the message by which the coordinator was asked';
COMMENT ON COLUMN txb.audit.changed IS
  'How many it had changed when this row was written: what is only asked for, of a job about failed messages or of a saga''s '
  'coordinator, counts 0';

DROP FUNCTION txb.saga_decide(uuid, text, text, int, text, text, jsonb);

-- As in 0028, but for what is refused, and for the audit: at this point the coordinator is only asked. What it makes of that,
-- also that it refuses, is the event of the saga that bears the message's id.
CREATE FUNCTION txb.saga_decide(id uuid, decision text, step text, expected int, reason text, person text,
                                payload jsonb DEFAULT NULL, OUT message uuid, OUT refused text)
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
    refused := format('saga %s has ended at %s: it is %s', s.id, e.ended_at, e.state);
  END IF;
  SELECT coalesce(max(v.n), 0) INTO seen FROM txb.saga_event AS v WHERE v.saga_id = s.id AND v.started_at = s.started_at;
  IF refused IS NULL AND expected <> seen THEN
    refused := format('saga %s has gone on since: it is at event %s, not at %s; look at it again: txbroker saga show',
                      s.id, seen, expected);
  END IF;
  IF refused IS NULL THEN
    -- Its own nulls stay what they are.
    message := txb.publish((SELECT c.topic FROM txb.saga_coordinator AS c), s.id::text, 'txb.saga.decision',
      jsonb_strip_nulls(jsonb_build_object('decision', decision, 'step', saga_decide.step, 'seen', seen,
        'reason', saga_decide.reason,
        'who', session_user || coalesce(' (' || nullif(saga_decide.person, '') || ')', '')))
        || CASE WHEN saga_decide.payload IS NULL THEN '{}' ELSE jsonb_build_object('payload', saga_decide.payload) END,
      txb.saga_reference(s.id, s.started_at));
  END IF;
  INSERT INTO txb.audit (person, action, filter, matched, changed, reason, refused)
  VALUES (nullif(saga_decide.person, ''), 'saga ' || decision,
          jsonb_strip_nulls(jsonb_build_object('saga', s.id, 'step', saga_decide.step, 'event', coalesce(expected, seen),
                                               'message', saga_decide.message,
                                               'payload', CASE WHEN decision = 'edit' THEN 'edited' END)),
          1, 0, saga_decide.reason, saga_decide.refused);
END
$$;
COMMENT ON FUNCTION txb.saga_decide(uuid, text, text, int, text, text, jsonb) IS
  'Sends a person''s decision to the coordinator; returns the id of that message, or why nothing was sent: the saga has ended, '
  'or has gone on. expected: the number of the last event that the person has seen; null: whatever happened since. payload: '
  'of an edit, what the step''s command says from then on';
GRANT EXECUTE ON FUNCTION txb.saga_decide(uuid, text, text, int, text, text, jsonb) TO txb_admin;

RESET ROLE;
