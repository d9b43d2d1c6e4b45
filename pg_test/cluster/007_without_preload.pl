# Without shared_preload_libraries the queue is complete, only nobody comes round by himself.
#
# CREATE EXTENSION says what is missing, diagnose() keeps saying it, and jobq.tick() does every duty by hand: rescue, timeouts, empty
# partitions, shorter retentions in batches. Everything else works; binding a job to the session is refused with 55000.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use Test::More;

my $node = JobqServer->boot('main', preload => 0);
sub ask { return $node->ask('postgres', @_); }

my ($code, $out, $err) = $node->psql('postgres', 'CREATE EXTENSION jobq');
is($code, 0, 'CREATE EXTENSION works');
like($err, qr/(NOTICE|WARNING):.*shared_preload_libraries/, 'and says that the preload is missing');
like($err, qr/jobq\.tick\(\)/, 'and what to do without it');
is($node->jobq_processes, '0', 'no process of jobq runs');

my $diagnosis = $node->diagnosis('postgres', 'preload');
like($diagnosis, qr/^warn\|/, 'diagnose() warns that there is no preload');
like($diagnosis, qr/shared_preload_libraries.*tick/s, 'and has a hint');
like($node->diagnosis('postgres', 'background_worker'), qr/^warn\|/, 'and that nothing ticks');
is(ask("SELECT string_agg(check_name, ',') FROM jobq.diagnose() WHERE status = 'error'"), '', 'but nothing is an error');

# The life of a job

ask("SELECT jobq.create_queue('q', backoff => '{\"kind\": \"constant\", \"base\": \"1h\"}')");
my $id = $node->enqueue('postgres', 'k', "payload => '{\"n\": 1}', queue => 'q', unique_key => 'u'");
is($node->enqueue('postgres', 'k', "queue => 'q', unique_key => 'u'"), $id, 'a second enqueue with the same unique key finds the first');
my ($claimed, $lease) = $node->claim('postgres', "'q', worker => 'w'");
is($claimed, $id, 'claim');
is(ask("SELECT jobq.heartbeat('$id', $lease, progress => 50)"), 't', 'heartbeat');
is(ask("SELECT jobq.release('$id', $lease)"), 'pending', 'release');
(undef, $lease) = $node->claim('postgres', "'q'");
is(ask("SELECT jobq.fail('$id', $lease, 'no')"), 'pending', 'fail');
is(ask("SELECT jobq.reschedule('$id')"), 'pending', 'reschedule');
(undef, $lease) = $node->claim('postgres', "'q'");
is(ask("SELECT jobq.complete('$id', $lease, '[1]')"), 'completed', 'complete');
is($node->refusal('postgres', "SELECT jobq.complete('$id', $lease)"), 'JQ002', 'complete again');
is(ask("SELECT state FROM jobq.jobs WHERE id = '$id'"), 'completed', 'the view shows it');
$node->enqueue('postgres', 'k', "queue => 'q'") for 1 .. 3;
is(ask("WITH c AS MATERIALIZED (SELECT array_agg(id) AS ids, array_agg(lease) AS leases FROM jobq.claim('q', 10)) SELECT count(*) FROM c, jobq.complete_many(c.ids, c.leases)"),
	'3', 'many at once');
is($node->refusal('postgres', "SELECT count(*) FROM jobq.claim('q', bind => 'session')"), '55000', "bind => 'session' needs the preload");
is($node->refusal('postgres', "SELECT count(*) FROM jobq.claim('q', bind => 'lease')"), '', "bind => 'lease' does not");
is(ask('SELECT jobq.resume_after_restore()'), 'f', 'this is no restored copy');

# The duties by hand

like(ask("SELECT jobq.schedule('s', '0 0 29 2 *', 'ticked')"), qr/^20/, 'a schedule');
ask("UPDATE jobq._schedule SET next_at = date_trunc('minute', now()), due_at = now()");
ask('SELECT jobq.tick()');
is(ask("SELECT count(*) FROM jobq.jobs AS j JOIN jobq.schedules AS s ON s.last_job_id = j.id AND s.next_run_at > now() WHERE j.kind = 'ticked'"), '1', 'tick() runs it when it is due');
ask("SELECT jobq.unschedule('s'), jobq.delete(id) FROM jobq.jobs WHERE kind = 'ticked'");

$node->enqueue('postgres', $_, "queue => 'q'") for qw(lost slow);
my ($lost) = $node->claim('postgres', "'q', kinds => '{lost}', worker => 'gone', lease_for => '1 s'");
ask("SELECT jobq.alter_queue('q', timeout => '1 s')");
my ($slow) = $node->claim('postgres', "'q', kinds => '{slow}', lease_for => '1 h'");
$node->seconds_until('postgres', "SELECT count(*) = 2 FROM jobq.running_jobs WHERE least(lease_expires_at, deadline_at) < clock_timestamp() - interval '0.1 s'");
is(ask("SELECT state FROM jobq.job('$lost')"), 'running', 'nobody rescues by himself');
is(ask('SELECT jobq.tick()'), '2', 'tick() sees to two jobs');
is(ask("SELECT concat_ws(' ', state, crashes) FROM jobq.job('$lost')"), 'pending 1', 'the one of the lost worker is pending again');
is(ask("SELECT concat_ws(' ', state, crashes, last_error) FROM jobq.job('$slow')"), 'pending 0 timed out', 'the overdue one has failed with "timed out"');
is(ask('SELECT jobq.tick()'), '0', 'a second tick finds nothing');

ask("SELECT jobq.create_queue('brief', retention => '1 hour')");
for my $queue (qw(q brief))
{
	$node->enqueue('postgres', 'old', "queue => '$queue'");
	my ($old, $its) = $node->claim('postgres', "'$queue', kinds => '{old}'");
	ask("SELECT jobq.complete('$old', $its)");
	my ($ago, $copies) = $queue eq 'q' ? ('15 days', 100) : ('2 hours', 24_999);
	my $slot = $queue eq 'q' ? '((slot + 17) % 32)::smallint' : 'slot';
	ask("UPDATE jobq._history SET finished_at = finished_at - interval '$ago', slot = $slot WHERE id = '$old'");
	ask("INSERT INTO jobq._history SELECT r.* FROM jobq._history AS h, generate_series(1, $copies) AS n,
	     LATERAL jsonb_populate_record(h, jsonb_build_object('id', left(h.id::text, 15) || substr(gen_random_uuid()::text, 16), 'n', n)) AS r WHERE h.id = '$old'");
}
my $partition = ask("SELECT DISTINCT tableoid::regclass FROM jobq._history WHERE finished_at < now() - interval '10 days'");
my $file = ask("SELECT pg_relation_filenode('$partition')");
my $rows = 'SELECT count(*) FROM jobq._history AS h WHERE queue_id = (SELECT id FROM jobq._queue WHERE name = \'brief\')';
is(ask($rows), '25000', '25 000 jobs past the retention of their queue');
ask('SELECT jobq.tick()');
is(ask("SELECT count(*) FROM $partition"), '0', 'tick() empties a partition that is past its retention');
isnt(ask("SELECT pg_relation_filenode('$partition')"), $file, 'by TRUNCATE');
is(ask($rows), '15000', 'and deletes a batch of 10 000 of the shorter retention');
ask('SELECT jobq.tick()');
is(ask($rows), '5000', 'each time');
ask('SELECT jobq.tick()');
is(ask($rows), '0', 'until none is left');
is(ask("SELECT state FROM jobq.job('$id')"), 'completed', 'and nothing else');

# A crash loses nothing here either; grace counts from the start.
my ($kept) = $node->claim('postgres', "'q', worker => 'away', lease_for => '3 s'");
is($kept, $lost, 'a job is running');
$node->age_lease('postgres', $kept, 60);
$node->stop('immediate');
$node->start;
is(ask("SELECT jobq.tick() >= 0 AND state = 'running' FROM jobq.job('$kept')"), 't', 'after a crash it is left to its worker for its lease length');
$node->becomes('postgres', "SELECT jobq.tick() >= 0 AND state = 'pending' FROM jobq.job('$kept')", 't', 'and rescued by a tick after that');

# With the preload added later the same database is served.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'jobq'");
$node->restart;
$node->is_served('postgres', 'with the preload added and a restart the maintainer comes');
like($node->diagnosis('postgres', 'preload'), qr/^ok/, 'and diagnose() is content');
$node->log_is_clean;
$node->stop;
done_testing();
