-- The range of the job of that name; kafka: it has offsets for each partition instead.
SELECT j.number, j.seq_from, j.seq_to, j.source IS NULL AS kafka FROM txb.job AS j WHERE j.name = $1::text COLLATE "C"
