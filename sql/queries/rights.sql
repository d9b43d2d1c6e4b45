-- How many rights on objects of jobq were granted to a role itself.
SELECT (SELECT count(*) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace, aclexplode(p.proacl) AS a
        WHERE n.nspname = 'jobq' AND a.grantee = $1)
     + (SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS a
        WHERE n.nspname = 'jobq' AND a.grantee = $1)
     + (SELECT count(*) FROM pg_namespace AS n, aclexplode(n.nspacl) AS a WHERE n.nspname = 'jobq' AND a.grantee = $1)
