-- Per account of the other bank, numbers must rise in the order of application.
SELECT count(*) FROM (
  SELECT number, lag(number) OVER (PARTITION BY from_account ORDER BY arrival) AS before FROM bank.credit
) AS c WHERE number < before
