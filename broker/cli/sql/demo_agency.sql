-- The agency of the saga demo: an order and its saga are one transaction, and one in ten changes its mind.
CREATE TABLE public.trip_order (number bigint PRIMARY KEY, saga uuid NOT NULL);

CREATE FUNCTION public.trip_begin(first bigint, past bigint) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
  n bigint;
  kept bigint := 0;
BEGIN
  FOR n IN first .. past - 1 LOOP
    BEGIN
      INSERT INTO public.trip_order (number, saga)
      VALUES (n, txb.saga_start('trip', jsonb_build_object('amount', 1 + n % 9, 'declined', n % 5 = 4)));
      IF n % 10 = 7 THEN
        RAISE EXCEPTION USING ERRCODE = 'TXBXX';
      END IF;
      kept := kept + 1;
    EXCEPTION WHEN SQLSTATE 'TXBXX' THEN
      NULL;
    END;
  END LOOP;
  RETURN kept;
END
$$;
