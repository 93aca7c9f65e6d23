-- Identifiers can't be parameters: they come through two settings of this transaction and are quoted by format().
DO $$
BEGIN
  EXECUTE pg_catalog.format('GRANT %I TO %I', pg_catalog.current_setting('txb.grant_role'),
                            pg_catalog.current_setting('txb.grant_user'));
END
$$
