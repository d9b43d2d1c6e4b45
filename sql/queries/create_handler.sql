-- Kind $1 is run by function $2 as role $3, created by role $4 at $5. No row: the kind has a handler.
INSERT INTO jobq._handler (kind, function_schema, function_name, function_kind, arguments, function_owner, run_as, created_by, created_at)
SELECT $1, n.nspname, f.proname, f.prokind, f.pronargs, f.proowner, $3, $4, $5
FROM pg_proc AS f JOIN pg_namespace AS n ON n.oid = f.pronamespace WHERE f.oid = $2
ON CONFLICT (kind) DO NOTHING
