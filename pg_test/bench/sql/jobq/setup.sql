CREATE EXTENSION jobq;
SELECT jobq.create_queue('bench', keep_completed => false, lease_for => '1 h');
