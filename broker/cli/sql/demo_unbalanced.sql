-- Accounts whose balance is not what the ledger makes it.
SELECT count(*)
  FROM bank.account AS a
 WHERE a.balance <> a.opening
       - (SELECT coalesce(sum(t.amount), 0) FROM bank.transfer AS t WHERE t.account = a.id)
       + (SELECT coalesce(sum(c.amount), 0) FROM bank.credit AS c WHERE c.account = a.id)
