-- Somebody who was in the database first does not get the queue: his schema is not adopted, nor are his objects.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT current_database() AS home \gset
SET client_min_messages = error;
DROP DATABASE IF EXISTS regress_jobq_squatted;
DROP ROLE IF EXISTS regress_jobq_squatter;
SET client_min_messages = warning;
CREATE ROLE regress_jobq_squatter;
CREATE DATABASE regress_jobq_squatted TEMPLATE template0;
GRANT CREATE ON DATABASE regress_jobq_squatted TO regress_jobq_squatter;
\c regress_jobq_squatted
SET client_min_messages = error;

-- The schema is taken: 42P06, whoever owns it and whatever is in it.
SET ROLE regress_jobq_squatter;
CREATE SCHEMA jobq;
RESET ROLE;
CREATE EXTENSION jobq;
CREATE EXTENSION jobq SCHEMA public;
CREATE EXTENSION jobq SCHEMA jobq;
SET ROLE regress_jobq_squatter;
CREATE TABLE jobq._job (id int);
CREATE FUNCTION jobq.enqueue(kind text) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid';
RESET ROLE;
CREATE EXTENSION jobq;
SELECT count(*) FROM pg_extension WHERE extname = 'jobq';
DROP SCHEMA jobq CASCADE;

-- Twins elsewhere, even on the search_path of the database: not adopted, not called, not touched.
GRANT CREATE ON SCHEMA public TO regress_jobq_squatter;
SET ROLE regress_jobq_squatter;
CREATE FUNCTION public.enqueue(kind text) RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid';
CREATE FUNCTION public.claim() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TYPE public.claimed_job AS (id int);
CREATE TABLE public._job (id int);
CREATE TABLE public._queue (id int);
CREATE VIEW public.jobs AS SELECT 1 AS id;
CREATE FUNCTION public.setval(text, bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hijacked''; END';
CREATE FUNCTION public.equal(int, int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''hijacked''; END';
CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = int, FUNCTION = public.equal);
RESET ROLE;
ALTER DATABASE regress_jobq_squatted SET search_path = public, pg_catalog;
\c regress_jobq_squatted
SET client_min_messages = error;
CREATE EXTENSION jobq;
SELECT pg_catalog.count(*) FROM jobq.enqueue('k') AS e (id);
SELECT state FROM jobq.jobs;
SELECT kind FROM jobq.claim();
RESET search_path;
SET search_path = pg_catalog;
SELECT count(*) FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'jobq' WHERE d.deptype = 'e' AND pg_describe_object(d.classid, d.objid, 0) !~ 'jobq';
SELECT count(*) FROM pg_proc AS p JOIN pg_roles AS r ON r.oid = p.proowner WHERE r.rolname = 'regress_jobq_squatter' AND p.pronamespace = 'jobq'::regnamespace;
SELECT n.nspname, r.rolname = current_user AS ours FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner WHERE n.nspname = 'jobq';
SET ROLE regress_jobq_squatter;
CREATE FUNCTION jobq.planted() RETURNS int LANGUAGE sql AS 'SELECT 1';
DROP SCHEMA jobq CASCADE;
ALTER SCHEMA jobq RENAME TO mine;
DROP EXTENSION jobq;
RESET ROLE;

-- The database goes when it is told to, whoever works in the background.
\c :home
DROP DATABASE regress_jobq_squatted WITH (FORCE);
DROP ROLE regress_jobq_squatter;
