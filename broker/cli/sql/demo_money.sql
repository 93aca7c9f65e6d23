SELECT sum(balance)::int8 FROM bank.account
