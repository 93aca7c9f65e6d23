-- Whether a relay has ever served the outbox of a coordinator's database, where its messages go, and who waits for a person.
SELECT txb.outbox_served(), (SELECT c.topic FROM txb.saga_coordinator AS c), s.stuck, s.stuck_first::text,
       (SELECT count(*) FROM txb.saga_definition)
  FROM txb.sagas_seen() AS s
