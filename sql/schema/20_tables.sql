-- Queue options. Written by operators only, never per job: counters in here would make every claim wait for every other.
-- The queue "default" has id 0 and no row until somebody alters it (a row inserted here would collide with the dumped one on restore).
CREATE SEQUENCE jobq._queue_id_seq AS int MINVALUE 1;
CREATE TABLE jobq._queue (
    id int NOT NULL PRIMARY KEY,
    name text NOT NULL,
    default_priority int NOT NULL DEFAULT 2,
    max_attempts int NOT NULL DEFAULT 3,
    lease_ms bigint NOT NULL DEFAULT 300000,
    timeout_ms bigint NOT NULL DEFAULT 0,               -- 0: none
    backoff jsonb,                                      -- NULL: the built-in policy
    max_crashes int NOT NULL DEFAULT 3,
    retention_ms bigint NOT NULL DEFAULT 604800000,
    keep_completed boolean NOT NULL DEFAULT true,
    max_depth bigint NOT NULL DEFAULT 0,                -- 0: none
    paused boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    dropped_at timestamptz,                             -- a tombstone: drop_queue was called, an open transaction may still add jobs
    drop_seen_at timestamptz,                           -- when the maintainer first saw the tombstone, committed then
    CONSTRAINT _queue_default CHECK ((id = 0) = (name = 'default' AND dropped_at IS NULL))
);
-- A dropped name may be used again while its tombstone is still there.
CREATE UNIQUE INDEX _queue_name ON jobq._queue (name) WHERE dropped_at IS NULL;

-- Unfinished jobs. How a row is laid out decides how much WAL it costs: a column that is NULL takes no room, and an UPDATE on the
-- same page logs only what lies between the common prefix and the common suffix of the two row versions. So: what every job has and
-- no claim changes, then all that a claim changes in one run, NULL before, then the rest: the payload, which begins at a multiple of
-- 4, and kind behind it, so that the suffix begins with the payload. The short types keep that run without gaps. A claim logs about
-- 120 bytes.
-- Fillfactor 42: room for one new version of every row of a page, so that batch claims are HOT too (0.46 of them at 70).
CREATE TABLE jobq._job (
    id uuid NOT NULL,
    enqueued_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL,
    queue_id int NOT NULL,
    priority smallint NOT NULL,
    max_attempts smallint NOT NULL,
    crashes smallint NOT NULL DEFAULT 0,
    attempt smallint NOT NULL DEFAULT 0,
    state "char" NOT NULL DEFAULT 'p',                  -- p pending, r running; finished jobs are not in this table
    scheduled boolean NOT NULL,                         -- run_at was ahead when it was written; a claim does not touch it
    unique_pending boolean NOT NULL,                    -- unique_key is given up at the first claim
    timeout_ms bigint,                                  -- NULL: the queue's, read at each claim
    lease bigint,                                       -- the newest lease, kept when the job is pending again; NULL: never claimed
    -- Of running jobs only.
    claimed_at timestamptz,
    lease_expires_at timestamptz,                       -- by the claim and by those heartbeats that went to the row
    lease_ms int,                                       -- the length the job was claimed with, or a longer one of a heartbeat
    seen_at timestamptz,                                -- last heartbeat that went to the row; NULL: the claim
    deadline_at timestamptz,                            -- NULL: none
    progress double precision,
    bound boolean,                                      -- bind => 'session'; NULL: no
    cancel_requested boolean,                           -- NULL: no
    note text,
    worker text,
    --
    unique_key text,
    spent_key text,                                     -- the unique_key a job with unique_pending gave up
    headers jsonb,
    errors jsonb,                                       -- [{"attempt":..,"at":..,"worker":..,"error":..}, ...], the last 20
    payload jsonb NOT NULL,
    kind text NOT NULL,
    CONSTRAINT _job_pkey PRIMARY KEY (id) WITH (fillfactor = 97),
    -- Every statement that writes here reads these from their text again, 1.5 us for each comparison; enqueue, claim, heartbeat and
    -- complete write without a statement (src/pg/heap.rs). Never NULL, which would pass.
    CONSTRAINT _job_state CHECK (
        CASE state
            WHEN 'p' THEN claimed_at IS NULL AND lease_expires_at IS NULL AND lease_ms IS NULL AND seen_at IS NULL
                     AND deadline_at IS NULL AND progress IS NULL AND bound IS NULL AND cancel_requested IS NULL
                     AND note IS NULL AND worker IS NULL
            WHEN 'r' THEN coalesce(lease > 0 AND lease_ms > 0 AND worker <> '' AND attempt > 0 AND claimed_at > '-infinity'
                     AND lease_expires_at > '-infinity' AND coalesce(seen_at, claimed_at) >= claimed_at, false)
            ELSE false
        END),
    CONSTRAINT _job_attempts CHECK (attempt >= 0 AND attempt <= max_attempts AND crashes >= 0)
) WITH (
    fillfactor = 42,
    -- Every job leaves dead rows behind; vacuum by number, not by share, or a long queue is never vacuumed. No cost delay: a
    -- slow vacuum of this table is what makes queues collapse.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

-- No index here may contain, or name in its predicate, a column that a claim or heartbeat changes: they would stop being HOT.
-- Ids and times ascend: pages split at their right end, and a split logs what goes to the new page. At 97 that is little.
CREATE INDEX _job_ready ON jobq._job (queue_id, priority, run_at, id) WITH (fillfactor = 97);
CREATE UNIQUE INDEX _job_unique ON jobq._job (queue_id, unique_key) WHERE unique_key IS NOT NULL;
CREATE INDEX _job_scheduled ON jobq._job (queue_id, run_at, id) WHERE scheduled;

-- Finished jobs: completed and cancelled ones in a fixed ring of 32 partitions, slot = (day / width) mod 32. The maintainer
-- empties a partition by TRUNCATE when its newest row is past the longest retention. Nothing is created or attached at run time:
-- that would queue every completion behind any reader.
CREATE TABLE jobq._history (
    id uuid NOT NULL,
    enqueued_at timestamptz NOT NULL,
    run_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    queue_id int NOT NULL,
    slot smallint NOT NULL,
    priority smallint NOT NULL,
    max_attempts smallint NOT NULL,
    crashes smallint NOT NULL,
    attempt smallint NOT NULL,
    state "char" NOT NULL,                              -- c completed, x cancelled
    unique_pending boolean NOT NULL,
    timeout_ms bigint,
    lease bigint,                                       -- the lease that finished it: how a repeated call is told (JQ002)
    claimed_at timestamptz,
    progress double precision,
    note text,
    worker text,
    unique_key text,
    headers jsonb,
    errors jsonb,
    result jsonb,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    CONSTRAINT _history_pkey PRIMARY KEY (id, slot),
    CONSTRAINT _history_state CHECK (state IN ('c', 'x') AND finished_at > '-infinity')
) PARTITION BY LIST (slot);

-- Failed jobs: the dead-letter list. Kept until somebody retries, deletes or purges them.
CREATE TABLE jobq._dead (
    LIKE jobq._history INCLUDING DEFAULTS,
    CONSTRAINT _dead_pkey PRIMARY KEY (id),
    CONSTRAINT _dead_state CHECK (state = 'f' AND finished_at > '-infinity' AND slot = 0)
);
CREATE INDEX _dead_queue ON jobq._dead (queue_id, finished_at);

CREATE TABLE jobq._history_00 PARTITION OF jobq._history FOR VALUES IN (0);
CREATE TABLE jobq._history_01 PARTITION OF jobq._history FOR VALUES IN (1);
CREATE TABLE jobq._history_02 PARTITION OF jobq._history FOR VALUES IN (2);
CREATE TABLE jobq._history_03 PARTITION OF jobq._history FOR VALUES IN (3);
CREATE TABLE jobq._history_04 PARTITION OF jobq._history FOR VALUES IN (4);
CREATE TABLE jobq._history_05 PARTITION OF jobq._history FOR VALUES IN (5);
CREATE TABLE jobq._history_06 PARTITION OF jobq._history FOR VALUES IN (6);
CREATE TABLE jobq._history_07 PARTITION OF jobq._history FOR VALUES IN (7);
CREATE TABLE jobq._history_08 PARTITION OF jobq._history FOR VALUES IN (8);
CREATE TABLE jobq._history_09 PARTITION OF jobq._history FOR VALUES IN (9);
CREATE TABLE jobq._history_10 PARTITION OF jobq._history FOR VALUES IN (10);
CREATE TABLE jobq._history_11 PARTITION OF jobq._history FOR VALUES IN (11);
CREATE TABLE jobq._history_12 PARTITION OF jobq._history FOR VALUES IN (12);
CREATE TABLE jobq._history_13 PARTITION OF jobq._history FOR VALUES IN (13);
CREATE TABLE jobq._history_14 PARTITION OF jobq._history FOR VALUES IN (14);
CREATE TABLE jobq._history_15 PARTITION OF jobq._history FOR VALUES IN (15);
CREATE TABLE jobq._history_16 PARTITION OF jobq._history FOR VALUES IN (16);
CREATE TABLE jobq._history_17 PARTITION OF jobq._history FOR VALUES IN (17);
CREATE TABLE jobq._history_18 PARTITION OF jobq._history FOR VALUES IN (18);
CREATE TABLE jobq._history_19 PARTITION OF jobq._history FOR VALUES IN (19);
CREATE TABLE jobq._history_20 PARTITION OF jobq._history FOR VALUES IN (20);
CREATE TABLE jobq._history_21 PARTITION OF jobq._history FOR VALUES IN (21);
CREATE TABLE jobq._history_22 PARTITION OF jobq._history FOR VALUES IN (22);
CREATE TABLE jobq._history_23 PARTITION OF jobq._history FOR VALUES IN (23);
CREATE TABLE jobq._history_24 PARTITION OF jobq._history FOR VALUES IN (24);
CREATE TABLE jobq._history_25 PARTITION OF jobq._history FOR VALUES IN (25);
CREATE TABLE jobq._history_26 PARTITION OF jobq._history FOR VALUES IN (26);
CREATE TABLE jobq._history_27 PARTITION OF jobq._history FOR VALUES IN (27);
CREATE TABLE jobq._history_28 PARTITION OF jobq._history FOR VALUES IN (28);
CREATE TABLE jobq._history_29 PARTITION OF jobq._history FOR VALUES IN (29);
CREATE TABLE jobq._history_30 PARTITION OF jobq._history FOR VALUES IN (30);
CREATE TABLE jobq._history_31 PARTITION OF jobq._history FOR VALUES IN (31);

-- Which installation is this? The sequence is dumped, the table is not: after a restore they differ, and the background duties
-- wait for resume_after_restore(). pg_upgrade carries both. The database's oid tells a copy made with CREATE DATABASE ... TEMPLATE.
-- A restore sets the sequence last of all. Until then, and for a week, it is told by jobs and schedules that are older than the
-- installation: their ids begin with their time.
CREATE SEQUENCE jobq._origin AS bigint MINVALUE 1;
CREATE TABLE jobq._here (
    only_row boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    origin bigint NOT NULL,
    database oid NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    first_id uuid NOT NULL DEFAULT (lpad(to_hex((1000 * extract(epoch FROM clock_timestamp()))::bigint), 12, '0') || repeat('0', 20))::uuid
);
INSERT INTO jobq._here (origin, database)
SELECT o.value, d.oid
FROM setval('jobq._origin', 1 + (('x' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12))::bit(48)::bigint)) AS o (value),
     pg_database AS d
WHERE d.datname = current_database();

SELECT pg_extension_config_dump('jobq._queue', '');
SELECT pg_extension_config_dump('jobq._queue_id_seq', '');
SELECT pg_extension_config_dump('jobq._job', '');
SELECT pg_extension_config_dump('jobq._dead', '');
SELECT pg_extension_config_dump('jobq._origin', '');
SELECT pg_extension_config_dump('jobq._history_00', '');
SELECT pg_extension_config_dump('jobq._history_01', '');
SELECT pg_extension_config_dump('jobq._history_02', '');
SELECT pg_extension_config_dump('jobq._history_03', '');
SELECT pg_extension_config_dump('jobq._history_04', '');
SELECT pg_extension_config_dump('jobq._history_05', '');
SELECT pg_extension_config_dump('jobq._history_06', '');
SELECT pg_extension_config_dump('jobq._history_07', '');
SELECT pg_extension_config_dump('jobq._history_08', '');
SELECT pg_extension_config_dump('jobq._history_09', '');
SELECT pg_extension_config_dump('jobq._history_10', '');
SELECT pg_extension_config_dump('jobq._history_11', '');
SELECT pg_extension_config_dump('jobq._history_12', '');
SELECT pg_extension_config_dump('jobq._history_13', '');
SELECT pg_extension_config_dump('jobq._history_14', '');
SELECT pg_extension_config_dump('jobq._history_15', '');
SELECT pg_extension_config_dump('jobq._history_16', '');
SELECT pg_extension_config_dump('jobq._history_17', '');
SELECT pg_extension_config_dump('jobq._history_18', '');
SELECT pg_extension_config_dump('jobq._history_19', '');
SELECT pg_extension_config_dump('jobq._history_20', '');
SELECT pg_extension_config_dump('jobq._history_21', '');
SELECT pg_extension_config_dump('jobq._history_22', '');
SELECT pg_extension_config_dump('jobq._history_23', '');
SELECT pg_extension_config_dump('jobq._history_24', '');
SELECT pg_extension_config_dump('jobq._history_25', '');
SELECT pg_extension_config_dump('jobq._history_26', '');
SELECT pg_extension_config_dump('jobq._history_27', '');
SELECT pg_extension_config_dump('jobq._history_28', '');
SELECT pg_extension_config_dump('jobq._history_29', '');
SELECT pg_extension_config_dump('jobq._history_30', '');
SELECT pg_extension_config_dump('jobq._history_31', '');
