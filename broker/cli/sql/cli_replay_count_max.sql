-- A message that was replayed into topics so often goes into none any more.
SELECT txb.replay_count_max()
