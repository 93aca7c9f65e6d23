-- Whether a relay has ever served the outbox of this database, and which dead-letter topic is in force for a group, since
-- when. $1 group
SELECT txb.outbox_served(), g.dead_letter_topic, g.since::timestamptz(0)::text
  FROM (SELECT) AS one
  LEFT JOIN txb.group_registered($1::text) AS g ON true
