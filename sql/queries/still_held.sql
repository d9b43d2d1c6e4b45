-- Those of the jobs $1 that are held under the leases $2. Index: primary key.
SELECT j.id
FROM ROWS FROM (unnest($1), unnest($2)) AS g (id, lease)
JOIN jobq._job AS j ON j.id = g.id AND j.lease = g.lease
WHERE j.state = 'r'
