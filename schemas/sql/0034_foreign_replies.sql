-- A reply answers a request if it comes from the topic in which that was asked, as a saga's step takes an answer from its own
-- topic only: who may write into the topic of replies answers for nobody else.

SET LOCAL ROLE txb_owner;

ALTER TABLE txb.reply_ignored
  DROP CONSTRAINT reply_ignored_why,
  ADD CONSTRAINT reply_ignored_why CHECK (why IN ('late', 'repeated', 'foreign', 'unknown', 'unreadable'));
COMMENT ON CONSTRAINT reply_ignored_why ON txb.reply_ignored IS 'why: late, repeated, foreign, unknown or unreadable';
COMMENT ON COLUMN txb.reply_ignored.why IS
  'late: its request was expired. repeated: it was answered. foreign: it was asked in another topic than the reply''s header '
  'txb-command-topic names. unknown: there is none, or it was forgotten. unreadable: it is no reply';

-- As in 0029, but for where the reply comes from. It never fails because of what it is given: a reply holds nothing up (S1).
CREATE OR REPLACE FUNCTION txb.take_reply(m txb.message) RETURNS txb.outcome
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, txb, pg_temp
AS $$
DECLARE
  body jsonb := txb.reply_body(m.payload);
  named text := m.headers ->> 'txb-request';
  asked_in text := m.headers ->> 'txb-command-topic';
  problem text;
BEGIN
  IF m.type IS DISTINCT FROM 'txb.reply' OR body IS NULL
     OR coalesce(named, '') !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
    problem := 'unreadable';
  ELSE
    UPDATE txb.request AS r
       SET state = 'answered', answer = body ->> 'answer', output = body -> 'output', reason = body ->> 'reason',
           ended_at = clock_timestamp()
     WHERE r.id = named::uuid AND r.topic = asked_in AND r.state = 'waiting' AND r.deadline_at > clock_timestamp();
    IF NOT FOUND THEN
      UPDATE txb.request AS r SET state = 'expired', ended_at = clock_timestamp()
       WHERE r.id = named::uuid AND r.state = 'waiting' AND r.deadline_at <= clock_timestamp();
      problem := coalesce((SELECT CASE WHEN r.topic IS DISTINCT FROM asked_in THEN 'foreign'
                                       WHEN r.state = 'answered' THEN 'repeated' ELSE 'late' END
                             FROM txb.request AS r WHERE r.id = named::uuid), 'unknown');
    END IF;
  END IF;
  IF problem IS NOT NULL THEN
    INSERT INTO txb.reply_ignored AS i (topic, partition, why, count, last_at, last_offset)
    VALUES (m.topic, m.partition, problem, 1, clock_timestamp(), m."offset")
    ON CONFLICT ON CONSTRAINT reply_ignored_key
    DO UPDATE SET count = i.count + 1, last_at = excluded.last_at, last_offset = excluded.last_offset;
  END IF;
  PERFORM txb.request_expire(interval '7 days', 2);
  RETURN txb.ok();
END
$$;

RESET ROLE;
