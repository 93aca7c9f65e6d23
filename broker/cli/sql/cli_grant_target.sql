-- Who is to get a role: whether the user exists, and whether it has the role already.
SELECT r.oid IS NOT NULL AS present,
       coalesce(pg_catalog.pg_has_role(r.oid, $2::text::name, 'MEMBER'), false) AS granted,
       pg_catalog.set_config('txb.grant_user', $1::text, true) AS named_user,
       pg_catalog.set_config('txb.grant_role', $2::text, true) AS named_role
  FROM (SELECT) AS one
  LEFT JOIN pg_catalog.pg_roles AS r ON r.rolname = $1::text
