-- The installed extension: oid and version; no row without it.
SELECT e.oid, e.extversion FROM pg_extension AS e WHERE e.extname = 'jobq'
