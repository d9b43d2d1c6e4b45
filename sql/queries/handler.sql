-- What runs jobs of kind $1 for a pool of role $2: what stands in the way, the function, is it a procedure, how many arguments.
SELECT v.problem, f.oid, f.prokind = 'p', f.pronargs::int
FROM jobq._handler AS h
JOIN jobq.handlers AS v ON v.kind = h.kind
LEFT JOIN pg_proc AS f ON f.oid = to_regprocedure(h.function)
WHERE h.kind = $1 AND h.run_as = $2
