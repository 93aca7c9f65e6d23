SELECT txb.lane_free($1, $2)
