SET LOCAL search_path TO pg_catalog, pg_temp;

-- Plain CREATE SCHEMA: somebody who made the schema first must not own the queue.
CREATE SCHEMA jobq;
COMMENT ON SCHEMA jobq IS 'jobq: a job queue inside PostgreSQL. Objects that start with an underscore are private.';
