CREATE EXTENSION jobq;
SELECT jobq.create_queue('bench', keep_completed => true, lease_for => '1 h');
