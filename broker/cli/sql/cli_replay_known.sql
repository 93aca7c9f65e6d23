-- Of these ids: how many the group has applied already, and how many are older than the inbox remembers.
SELECT count(*) FILTER (WHERE EXISTS (SELECT FROM txb.inbox AS x
                                       WHERE x.group_name = $1::text AND x.run = 0 AND x.message_id = i.id)) AS known,
       count(*) FILTER (WHERE pg_catalog.isfinite(s.horizon)
                          AND i.id < txb.uuid_v7_floor(CASE WHEN pg_catalog.isfinite(s.horizon)
                                                            THEN s.horizon ELSE 'epoch' END)) AS forgotten
  FROM pg_catalog.unnest($2::uuid[]) AS i (id), txb.inbox_state AS s
