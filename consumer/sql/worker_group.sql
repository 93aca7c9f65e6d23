-- $1 group, $2 the topic that its dead messages are copied to; null: none
SELECT txb.group_register($1::text, $2::text)
