INSERT INTO bank.transfer (id, account, to_account, amount, number)
VALUES ($1::uuid, $2::int4, $3::int4, $4::int8, $5::int8)
