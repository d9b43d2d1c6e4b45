-- What is to be known before function $1 becomes a handler that runs as role $2 on behalf of role $3. Columns: the function is one;
-- takes a job, and for a procedure perhaps a result, too; answers jsonb or nothing; the role is there; may log in; is a superuser;
-- its member is $3; it may execute the function in its schema; it may connect.
SELECT f.oid IS NOT NULL,
       f.prokind = 'f' AND f.proargtypes = ARRAY['jobq.claimed_job'::regtype]::oidvector AND f.proargmodes IS NULL
       OR f.prokind = 'p' AND (f.proargtypes = ARRAY['jobq.claimed_job'::regtype]::oidvector AND f.proargmodes IS NULL
                               OR f.proargtypes = ARRAY['jobq.claimed_job'::regtype, 'jsonb'::regtype]::oidvector
                                  AND f.proargmodes = ARRAY['i', 'b']::"char"[]),
       NOT f.proretset AND (f.prorettype IN ('jsonb'::regtype, 'void'::regtype) OR f.prokind = 'p'),
       r.oid IS NOT NULL,
       r.rolcanlogin,
       r.rolsuper,
       pg_has_role($3, r.oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END),
       has_schema_privilege(r.oid, f.pronamespace, 'USAGE') AND has_function_privilege(r.oid, f.oid, 'EXECUTE'),
       has_database_privilege(r.oid, current_database(), 'CONNECT')
FROM (SELECT) AS one
LEFT JOIN pg_proc AS f ON f.oid = $1
LEFT JOIN pg_roles AS r ON r.oid = $2
