-- Nothing for PUBLIC: grant_access gives each role what it needs.
REVOKE ALL ON ALL ROUTINES IN SCHEMA jobq FROM PUBLIC;

SELECT jobq._installed();
