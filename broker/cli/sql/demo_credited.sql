SELECT transfer, from_account, account, amount, number FROM bank.credit ORDER BY transfer, arrival
