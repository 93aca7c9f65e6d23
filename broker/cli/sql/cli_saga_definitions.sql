-- What is deployed, and how many run on each version.
SELECT pg_catalog.jsonb_build_object('name', d.name, 'version', d.version, 'deployed_at', d.deployed_at,
                                     'deployed_by', d.deployed_by, 'running', coalesce(r.running, 0))
  FROM txb.saga_definition AS d
  LEFT JOIN (SELECT g.name, g.version, count(*) AS running FROM txb.saga AS g
              WHERE NOT EXISTS (SELECT FROM txb.saga_end AS e WHERE e.saga_id = g.id AND e.started_at = g.started_at)
              GROUP BY g.name, g.version) AS r ON r.name = d.name AND r.version = d.version
 ORDER BY d.name, d.version DESC
