-- What a plugin's handler publishes through txb.publish gets its ids from the batch's first message (W14).
SELECT set_config('txb.delivery', $1, true), set_config('txb.ordinal', '0', true)
