SELECT public.trip_begin($1, $2)
