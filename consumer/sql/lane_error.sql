-- What stands in a lane's way; null: nothing any more.
SELECT txb.lane_error($1, $2, $3)
