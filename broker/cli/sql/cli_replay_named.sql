-- The range of the job of that name.
SELECT j.number, j.seq_from, j.seq_to FROM txb.job AS j WHERE j.name = $1::text COLLATE "C"
