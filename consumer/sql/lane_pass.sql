SELECT txb.lane_pass($1, $2, $3, $4, $5, $6)
