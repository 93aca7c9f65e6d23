-- Whether a relay has ever served the outbox of this database.
SELECT txb.outbox_served()
