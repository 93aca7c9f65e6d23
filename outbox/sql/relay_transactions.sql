-- What is sent between two syncs of the relay's pipeline is one transaction: so all statements of a poll share one
-- snapshot. relay_state answers with the isolation level, and the relay refuses any other: a pooler may have dropped
-- this.
SET default_transaction_isolation = 'repeatable read'
