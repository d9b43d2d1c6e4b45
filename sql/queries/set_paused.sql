UPDATE jobq._queue AS q SET paused = $2 WHERE q.id = $1 AND q.paused <> $2
