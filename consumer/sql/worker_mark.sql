SELECT txb.suspect_mark($1, $2, $3, $4, $5, $6)
