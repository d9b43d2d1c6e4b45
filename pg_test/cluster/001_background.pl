# The background processes are there whenever they should be, and only then.
#
# With jobq preloaded a launcher runs from the start. It finds by itself every database in which CREATE EXTENSION is run, now or
# later, and keeps one maintainer in each; follows DROP EXTENSION and CREATE EXTENSION; brings back what somebody terminates; obeys
# jobq.enabled, jobq.databases and a reload; and idles, without a word in the log, where there is nothing to do. Between two ticks a
# maintainer holds no transaction and no snapshot, and monitoring sees what it does. When the server has no slot left for a
# maintainer, that costs one line in the log a minute, and is over when a slot is free.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use List::Util qw(max);
use Test::More;
use Time::HiRes qw(time sleep);

my $node = JobqServer->boot('main');

# Beside it: a server with a slot for the launcher and one maintainer, and two databases that want one. Looked at again at the end.
my $tight = JobqServer->boot('tight', conf => "max_worker_processes = 2\nmax_logical_replication_workers = 0\nmax_parallel_workers = 0");
my $tight_since = time;
$tight->ask('postgres', "CREATE DATABASE $_") for qw(one two);
$tight->ask('one', 'CREATE EXTENSION jobq');
$tight->is_served('one', 'one slot beside the launcher: the first database is served');
$tight->ask('two', 'CREATE EXTENSION jobq');

# And one where somebody keeps terminating first the launcher, then the maintainer, each as soon as it is back.
my $plagued = JobqServer->boot('plagued');
$plagued->ask('postgres', 'CREATE EXTENSION jobq');
$plagued->is_served('postgres', 'the maintainer of the plagued server ticks');
my $plagued_start = $plagued->log_end;
my $plague = $plagued->background_program(
	[ 'psql', '-XAtq', '-d', $plagued->connstr('template1'), '-v', 'ON_ERROR_STOP=1', map { ('-c', plague($_)) } qw(launcher maintainer) ],
	\my $plague_said);
sub plague
{
	my ($who) = @_;
	return <<SQL;
DO \$\$
DECLARE
	old int; new int; slowest interval := '0'; since timestamptz;
BEGIN
	FOR turn IN 1 .. 21 LOOP
		since := clock_timestamp();
		LOOP
			PERFORM pg_stat_clear_snapshot();
			-- One that sleeps between ticks: it has done its work once.
			SELECT pid INTO new FROM pg_stat_activity
			WHERE backend_type = 'jobq $who' AND pid IS DISTINCT FROM old AND wait_event_type = 'Extension';
			EXIT WHEN new IS NOT NULL;
			IF clock_timestamp() > since + interval '10 s' THEN RAISE '$who not back within 10 s, turn %', turn; END IF;
			PERFORM pg_sleep(0.05);
		END LOOP;
		slowest := greatest(slowest, clock_timestamp() - since);
		old := new;
		IF turn <= 20 THEN PERFORM pg_terminate_backend(old); END IF;
	END LOOP;
	RAISE WARNING '$who back 20 times, at the slowest after %', slowest;
END \$\$
SQL
}

sub restarts { return $node->ask('postgres', 'SELECT pg_postmaster_start_time()'); }
my $started = restarts();

# Appearing

$node->becomes('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq launcher'", '1', 'a launcher runs');
is($node->maintainer('postgres'), '', 'no maintainer before there is an extension');

my @databases = map { "db$_" } 1 .. 4;
$node->ask('postgres', "CREATE DATABASE $_") for @databases;
$node->ask($_, 'CREATE EXTENSION jobq') for @databases;
for my $db (@databases)
{
	$node->is_served($db, "CREATE EXTENSION in $db is noticed");
}
is($node->ask('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'"),
	'4', 'one maintainer in each database');
is($node->ask('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'jobq%' AND datname IS NULL"),
	'1', 'only the launcher is in no database');
like($node->diagnosis('db1', 'preload'), qr/^ok/, 'diagnose() sees the preload');

# A rolled back CREATE EXTENSION starts nothing that stays.
$node->ask('postgres', 'BEGIN; CREATE EXTENSION jobq; ROLLBACK');
$node->becomes('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = 'postgres'",
	'0', 'no maintainer stays after a rolled back CREATE EXTENSION');

# What monitoring sees

{
	my (@seen, %states, %events);
	for (1 .. 40)
	{
		my $row = $node->ask('postgres',
			"SELECT state, coalesce(wait_event_type, '-'), backend_xmin IS NULL AND backend_xid IS NULL, xact_start IS NULL
			 FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = 'db1'");
		my ($state, $event, $no_snapshot, $no_transaction) = split /\|/, $row;
		$states{$state}++;
		$events{$event}++;
		push @seen, [ $row, $no_snapshot eq 't' && $no_transaction eq 't' ] if $state eq 'idle';
		sleep 0.03;
	}
	my @holding = map { $_->[0] } grep { !$_->[1] } @seen;
	ok(@seen >= 10, 'its state is shown: idle between ticks') or diag explain \%states;
	# The view does not read a process's state and its snapshot at the same instant: one sample may be torn.
	ok(@holding <= 1, 'idle without a snapshot, a transaction id or a transaction') or diag explain \@holding;
	ok(!$states{'idle in transaction'}, 'never idle in transaction');
	ok($events{'Extension'}, 'its wait event is shown') or diag explain \%events;
}
$node->becomes('postgres',
	"SELECT xact_commit > 20 FROM pg_stat_database WHERE datname = 'db1'", 't', 'its transactions are counted');
is($node->ask('postgres', "SELECT string_agg(DISTINCT granted || mode, ',') FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
	WHERE a.backend_type = 'jobq maintainer' AND a.state = 'idle' AND l.locktype = 'relation' AND l.mode <> 'AccessShareLock'"),
	'', 'it holds no lock on a table between ticks');

{
	my ($id) = ($node->enqueue('db1', 'k'));
	my $before = $node->ask('db1', "SELECT n_tup_upd FROM pg_stat_all_tables WHERE relid = 'jobq._job'::regclass");
	$node->ask('db1', "SELECT jobq.enqueue_many('grow', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 500)))");
	$node->ask('db1', "SELECT count(*) FROM jobq.claim(batch => 600, lease_for => '1 s')");
	$node->becomes('db1',
		"SELECT count(*) FROM jobq.jobs WHERE state = 'pending' AND crashes = 1", '501', 'the maintainer rescues 501 jobs by itself');
	$node->becomes('db1', "SELECT n_tup_upd >= $before + 1002 FROM pg_stat_all_tables WHERE relid = 'jobq._job'::regclass",
		't', 'its updates are counted in the statistics, for autovacuum');
}

# Settings

{
	# Every 200 ms so far.
	my $commits = "SELECT xact_commit FROM pg_stat_database WHERE datname = 'db2'";
	$node->set_for_all('jobq.tick_interval', '1h');
	$node->becomes('db2', 'SHOW jobq.tick_interval', '1h', 'sessions see the reloaded jobq.tick_interval');
	$node->enqueue('db2', 'slow');
	# After a look or two the maintainer has done its last early rescue.
	my $mark = $node->ask('postgres', $commits);
	$node->seconds_until('postgres', "SELECT ($commits) > $mark + 8");
	my ($id) = $node->claim('db2', "lease_for => '1 s'");
	$node->seconds_until('db2', "SELECT clock_timestamp() > lease_expires_at + interval '1.5 s' FROM jobq.job('$id')");
	is($node->state('db2', $id), 'running', 'with a tick an hour a lost job stays lost for now');
	$node->set_for_all('jobq.tick_interval', undef);
	# Its next rescue was due in an hour: a shorter interval must not wait for that.
	$node->becomes('db2', "SELECT state FROM jobq.job('$id')", 'pending', 'a shorter jobq.tick_interval takes effect on reload');
}

$node->set_for_all('jobq.enabled', 'off');
$node->becomes('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'",
	'0', 'jobq.enabled = off sends all maintainers away');
like($node->diagnosis('db1', 'background_worker'), qr/^warn\|.*jobq\.enabled/, 'diagnose() says that jobq.enabled is off');
is($node->state('db2', $node->enqueue('db2', 'off')), 'pending', 'jobs are taken as before');
$node->set_for_all('jobq.enabled', undef);
$node->is_served($_, "jobq.enabled = on brings $_ its maintainer back") for @databases;

# DROP EXTENSION and CREATE EXTENSION, again and again

{
	my $mark = $node->log_end;
	my ($slowest_drop, $slowest_start) = (0, 0);
	for my $turn (1 .. 20)
	{
		my $start = time;
		$node->ask('db3', 'DROP EXTENSION jobq CASCADE');
		$slowest_drop = max($slowest_drop, time - $start);
		$node->ask('db3', 'CREATE EXTENSION jobq');
		my $took = $node->seconds_until_served('db3', 0, 15);
		last unless defined $took;
		$slowest_start = max($slowest_start, $took);
		if ($turn == 20)
		{
			pass('20 times DROP EXTENSION and CREATE EXTENSION under the maintainer: served again each time');
		}
	}
	note sprintf 'slowest DROP EXTENSION %.2f s, slowest until served %.2f s', $slowest_drop, $slowest_start;
	ok($slowest_drop < 5, 'DROP EXTENSION does not wait for the maintainer');
	# The new one is served by a maintainer that looked again: work is done.
	my $id = $node->enqueue('db3', 'again');
	$node->claim('db3', "lease_for => '1 s'");
	$node->becomes('db3', "SELECT state FROM jobq.job('$id')", 'pending', 'duties run for the newest extension');
	my $lines = () = $node->log_since($mark) =~ /^\d{4}-/mg;
	ok($lines <= 40, 'at most two lines in the log for each turn') or diag "$lines lines:\n" . substr($node->log_since($mark), 0, 3000);
	$node->log_is_clean('nothing bad in it', $mark);
	is(restarts(), $started, 'the server has not restarted');
}

# Somebody terminates them

{
	my $old = $node->maintainer('db1');
	$node->ask('postgres', "SELECT pg_terminate_backend($old)");
	$node->is_served('db1', 'pg_terminate_backend of the maintainer: it is back', $old);

	eval { $plague->finish };
	diag "$plague_said (promise: restart time of 1 s + 2 s)";
	for my $who (qw(launcher maintainer))
	{
		like($plague_said, qr/$who back 20 times/, "pg_terminate_backend of the $who 20 times in a row: back within 10 s each time");
		says_its_ends($plagued, $who, 20, $plagued_start);
	}
	$plagued->is_served('postgres', 'the plagued server is served after all');
	$plagued->stop;
}
sub says_its_ends
{
	my ($server, $who, $times, $mark) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $said = $server->count_in_log(qr/FATAL:  terminating background worker "jobq $who.*" due to administrator command/, $mark);
	cmp_ok($said, '>=', $times, "the log has a line for each end of the $who");
	$server->log_is_clean('and nothing bad', $mark);
	return;
}
$node->is_served($_, "$_ is served") for @databases;
is(restarts(), $started, 'the server has not restarted');

# Only one maintainer a database, whatever happened so far.
is($node->ask('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' GROUP BY datname ORDER BY 1 DESC LIMIT 1"),
	'1', 'never two maintainers in one database');

# A schema of that name without the extension; a schema that another library made

{
	$node->ask('postgres', 'CREATE DATABASE impostor');
	$node->ask('impostor', 'CREATE SCHEMA jobq; CREATE TABLE jobq._job (id int); CREATE TABLE jobq._here (origin int)');
	my $mark = $node->log_end;
	# CREATE EXTENSION somewhere makes the launcher look at all databases, this one too.
	$node->ask('db4', 'DROP EXTENSION jobq CASCADE');
	$node->ask('db4', 'CREATE EXTENSION jobq');
	$node->is_served('db4', 'a look at all databases is over');
	is($node->maintainer('impostor'), '', 'a schema called jobq alone is no reason to stay');
	is($node->count_in_log(qr/jobq/, $mark), 0, 'and nothing is said about it') or diag $node->log_since($mark);

	$mark = $node->log_end;
	$node->ask('db4', "UPDATE pg_extension SET extversion = '0.0.0-other' WHERE extname = 'jobq'");
	my $old = $node->maintainer('db4');
	$node->ask('postgres', "SELECT pg_terminate_backend($old)");
	$node->becomes('postgres', sub { $node->count_in_log(qr/stands down/, $mark) ? 't' : 'f' }, 't',
		'on a schema of an unknown version the maintainer stands down and says so');
	like($node->diagnosis('db4', 'schema_version'), qr/^warn\|.*0\.0\.0-other.*ALTER EXTENSION/, 'diagnose() says so too');
	# Visits go on.
	my $until = time + 4;
	$node->seconds_until('postgres', sub { time > $until ? 't' : 'f' });
	my $said = $node->count_in_log(qr/stands down/, $mark);
	is($said, 1, 'once, not with every visit (at most one line a minute for one cause)');
	unlike($node->maintainer('db4'), qr/\n/, 'and visitors do not pile up');
	$node->ask('db4', "UPDATE pg_extension e SET extversion = a.default_version FROM pg_available_extensions a WHERE a.name = 'jobq' AND e.extname = 'jobq'");
	# As the last statement of an update script does.
	$node->ask('db4', 'SELECT jobq._installed()');
	$node->is_served('db4', 'and comes when the version is right again');
}

# jobq.databases

$node->append_conf('postgresql.conf', "jobq.databases = 'db2, db4,nosuch'");
$node->restart;
$node->is_served($_, "jobq.databases names $_") for 'db2', 'db4';
is($node->ask('postgres', "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'"),
	'db2,db4', 'and no other database is served');
like($node->diagnosis('db1', 'background_worker'), qr/^(warn|error)\|/, 'which diagnose() says there');

# Databases nobody may enter

$node->append_conf('postgresql.conf', "jobq.databases = '*'");
$node->ask('postgres', 'ALTER DATABASE db3 WITH ALLOW_CONNECTIONS false');
my $mark = $node->log_end;
$node->restart;
$node->is_served($_, "$_ is served") for 'db1', 'db2', 'db4';
is($node->count_in_log(qr/FATAL|ERROR/, $mark + 0) - $node->count_in_log(qr/FATAL:  terminating background worker "jobq/, $mark),
	0, 'a database that allows no connections is left alone') or diag $node->log_since($mark);
$node->log_is_clean;
$node->stop;

# The server without a slot, some minutes later

{
	$tight->becomes('postgres', sub { $tight->diagnosis('two', 'background_worker') }, qr/^error\|.*max_worker_processes.*jobq\.databases/,
		'without a slot: diagnose() has the hints');
	is($tight->maintainer('two'), '', 'the second database waits');
	my $said = $tight->count_in_log(qr/max_worker_processes/);
	my $minutes = int((time - $tight_since) / 60);
	ok($said >= 1 && $said <= $minutes + 1, 'the log says once a minute at most what to raise') or diag "$said times in $minutes minutes";
	is($tight->ask('two', "SELECT jobq.tick()"), '0', 'tick() does the duties meanwhile');
	$tight->ask('one', 'DROP EXTENSION jobq CASCADE');
	$tight->is_served('two', 'as soon as a slot is free the second database is served, without a restart');
	$tight->log_is_clean;
	$tight->stop;
}

done_testing();
