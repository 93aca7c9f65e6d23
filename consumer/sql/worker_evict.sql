SELECT txb.offset_evict($1, $2, $3)
