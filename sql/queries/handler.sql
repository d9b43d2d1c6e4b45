-- What runs jobs of kind $1 for a pool of role $2: what stands in the way, the function, is it a procedure, how many arguments.
SELECT v.problem, f.oid, h.function_kind = 'p', h.arguments
FROM jobq._handler AS h
JOIN jobq.handlers AS v ON v.kind = h.kind
LEFT JOIN jobq._function_of AS f ON f.kind = h.kind
WHERE h.kind = $1 AND h.run_as = $2
