-- Kind $1 is run by function $2 as role $3, created by role $4 at $5. No row: the kind has a handler.
INSERT INTO jobq._handler (kind, function, function_owner, run_as, created_by, created_at)
SELECT $1, f.oid::regprocedure::text, f.proowner, $3, $4, $5 FROM pg_proc AS f WHERE f.oid = $2
ON CONFLICT (kind) DO NOTHING
