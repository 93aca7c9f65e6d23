-- All the money, and whether what the house has is what the bookings cost.
SELECT coalesce(sum(a.balance), 0)::bigint,
       (SELECT h.balance FROM trip.account AS h WHERE h.name = 'house')
       = (SELECT coalesce(sum(b.amount), 0) FROM trip.booking AS b)
  FROM trip.account AS a
