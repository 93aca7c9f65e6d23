SELECT id, account, to_account, amount, number FROM bank.transfer ORDER BY id
