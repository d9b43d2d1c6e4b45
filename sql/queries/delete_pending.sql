DELETE FROM jobq._job AS j WHERE j.id = $1 AND j.state = 'p' RETURNING j.queue_id
