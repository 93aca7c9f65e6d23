-- First the row lock that orders this account's transfers, then the intent.
UPDATE bank.account SET balance = balance - $2::int8, sent = sent + 1
 WHERE id = $1::int4 AND balance >= $2::int8
RETURNING sent
