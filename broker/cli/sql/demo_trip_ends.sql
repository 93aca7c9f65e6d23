-- How each order's saga ended; null: it has not.
SELECT o.saga, e.state FROM public.trip_order AS o LEFT JOIN txb.saga_end AS e ON e.saga_id = o.saga ORDER BY o.saga
