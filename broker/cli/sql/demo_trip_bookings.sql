SELECT b.saga, count(*) FROM trip.booking AS b GROUP BY b.saga ORDER BY b.saga
