SELECT * FROM jobq.jobs AS j WHERE j.id = $1
