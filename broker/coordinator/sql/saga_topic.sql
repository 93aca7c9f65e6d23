-- Where messages to this coordinator go: $1 its topic.
SELECT txb.saga_coordinator_set($1)
