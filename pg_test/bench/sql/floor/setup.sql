-- What a careful engineer writes by hand: one narrow table, one partial index in claim order.
CREATE TABLE hand (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    priority int NOT NULL DEFAULT 2,
    run_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'pending',
    attempt int NOT NULL DEFAULT 0,
    worker text,
    lease_expires_at timestamptz,
    payload jsonb NOT NULL
);
CREATE INDEX hand_ready ON hand (queue, priority, run_at, id) WHERE state = 'pending';
