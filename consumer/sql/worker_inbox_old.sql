-- Whether anything below that id was ever remembered. Dropping raises the horizon, and a new group that reads a topic
-- from its beginning would be refused all that lies below it, in a database that has forgotten nothing yet.
SELECT EXISTS (SELECT FROM txb.inbox AS i WHERE i.message_id < $1)
