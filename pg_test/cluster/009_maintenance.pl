# The administrator's heavy tools and jobq get along.
#
# VACUUM FULL, REINDEX, CLUSTER-like locks, TRUNCATE of a history partition and LOCK TABLE, all under load, do not wait for the
# maintainer, and it takes up its work when they are done. Nor does the maintainer make others wait: a partition that somebody reads
# is left alone until the reader is gone, while jobs go on being completed into it.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use Test::More;
use Time::HiRes qw(time);

my $node = JobqServer->boot('main');
my $db = 'app';
$node->ask('postgres', "CREATE DATABASE $db");
$node->ask($db, 'CREATE EXTENSION jobq');
$node->is_served($db, 'the maintainer ticks');
sub ask { return $node->ask($db, @_); }

my $load = $node->load($db, clients => 2, seconds => 280);
sub completed { return ask("SELECT count(*) FROM jobq._history WHERE kind = 'load'"); }
sub goes_on
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = completed();
	$node->becomes($db, "SELECT count(*) > $before + 20 FROM jobq._history WHERE kind = 'load'", 't', "$name: jobs are completed again");
	my $id = $node->enqueue($db, 'probe', "queue => 'probe'");
	$node->claim($db, "'probe', kinds => '{probe}', lease_for => '1 s'");
	$node->becomes($db, "SELECT state FROM jobq.job('$id')", 'pending', "$name: the maintainer rescues within 10 s", 10);
	ask("SELECT jobq.delete('$id')");
	return;
}
ask("SELECT jobq.create_queue('probe')");
goes_on('under load');

# A partition of long ago: TRUNCATE of today's would take the counts away.
my $idle = ask("SELECT '_history_' || lpad(((slot + 16) % 32)::text, 2, '0') FROM jobq._history LIMIT 1");
my $today = ask("SELECT DISTINCT tableoid::regclass FROM jobq._history LIMIT 1");

for my $statement ('VACUUM FULL jobq._job', "VACUUM FULL $today", 'VACUUM FULL jobq._queue', 'REINDEX TABLE jobq._job', 'REINDEX TABLE CONCURRENTLY jobq._job',
	'REINDEX TABLE jobq._history', "TRUNCATE jobq.$idle", 'VACUUM (FREEZE, ANALYZE) jobq._job', 'CLUSTER jobq._job USING _job_pkey')
{
	my $start = time;
	my ($code, $out, $err) = $node->psql($db, $statement);
	is($err, '', $statement);
	my $took = time - $start;
	cmp_ok($took, '<', 20, sprintf 'in %.2f s', $took);
}
goes_on('after all that');

# A table lock of some seconds

for my $table ('_job', '_history', '_queue')
{
	my $session = $node->background_psql($db);
	$session->query_safe("BEGIN; LOCK TABLE jobq.$table IN ACCESS EXCLUSIVE MODE");
	$node->becomes('postgres', "SELECT count(*) >= 1 FROM pg_stat_activity WHERE datname = '$db' AND wait_event_type = 'Lock'", 't',
		"LOCK TABLE jobq.$table: somebody waits");
	$node->seconds_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '$db' AND wait_event_type = 'Lock'
		AND clock_timestamp() - state_change > interval '2 s'");
	$session->query_safe('COMMIT');
	$session->quit;
	goes_on("after LOCK TABLE jobq.$table");
}

# A reader of a partition that is due to be emptied: the maintainer neither waits for it nor makes others wait behind it.
{
	my $id = ask("SELECT id FROM jobq._history WHERE kind = 'load' LIMIT 1");
	my $slot = ask("SELECT (slot + 16) % 32 FROM jobq._history WHERE id = '$id'");
	ask("UPDATE jobq._history SET finished_at = finished_at - interval '15 days', slot = $slot WHERE id = '$id'");
	my $reader = $node->background_psql($db);
	$reader->query_safe("BEGIN; SELECT count(*) FROM jobq.$idle");
	my $mark = $node->log_end;
	ok(defined $node->renew_maintainer($db), 'the duties run while somebody reads an old partition');
	is(ask("SELECT count(*) FROM jobq.$idle"), '1', 'it is left alone');
	is($node->ask('postgres', "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"), '0', 'nobody waits for it');
	goes_on('meanwhile');
	$reader->query_safe('COMMIT');
	$reader->quit;
	ok(defined $node->renew_maintainer($db), 'the duties run again');
	$node->becomes($db, "SELECT count(*) FROM jobq.$idle", '0', 'now it is emptied');
}

# A query of jobq.jobs that runs for long, in REPEATABLE READ, keeps its rows: TRUNCATE does not pull them from under it.
{
	my $reader = $node->background_psql($db);
	$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $before = $reader->query_safe('SELECT count(*) FROM jobq.jobs');
	ok(defined $node->renew_maintainer($db), 'the duties run under a long transaction');
	is($reader->query_safe('SELECT count(*) FROM jobq.jobs'), $before, 'which sees what it saw');
	$reader->query_safe('COMMIT');
	$reader->quit;
}

# The locks of a session that is idle in its transaction after a claim hold up nobody.
{
	my $worker = $node->background_psql($db);
	my $id = $node->enqueue($db, 'held', "queue => 'probe'");
	$worker->query_safe('BEGIN');
	is($worker->query_safe("SELECT count(*) FROM jobq.claim('probe', kinds => '{held}', lease_for => '1 s')"), '1', 'a claim in an open transaction');
	goes_on('meanwhile');
	$worker->query_safe('ROLLBACK');
	$worker->quit;
	is($node->state($db, $id), 'pending', 'rolled back it was never claimed');
}

$load->pump_nb;
ok($load->pumpable, 'the load has not ended with an error');
JobqServer::stop_program($load);
$node->log_is_clean;
is($node->count_in_log(qr/jobq maintainer: /), 0, 'no duty has failed') or diag join "\n", grep { /jobq maintainer: / } split /\n/, $node->log_since(0);
$node->stop;
done_testing();
