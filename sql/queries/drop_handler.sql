DELETE FROM jobq._handler AS h WHERE h.kind = $1
