# jobq is not in the way of the administrator.
#
# A maintainer is a session in its database, and still DROP DATABASE, ALTER DATABASE RENAME and CREATE DATABASE ... TEMPLATE of that
# very database succeed by themselves, with jobs in it, and those of other databases are not even slowed down. A shutdown is prompt
# whatever the maintainer is doing: idle, under load, waiting for a synchronous standby that never comes, waiting for a table lock.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use List::Util qw(max);
use Test::More;
use Time::HiRes qw(time);

# What is promised is 3 s; what is asserted leaves room for a busy machine.
my $STOP_PROMISE = 3;
my $STOP_LIMIT = 10;
# DROP DATABASE and the like wait 5 s for sessions to leave, then fail.
my $DDL_LIMIT = 10;

my $node = JobqServer->boot('main');
sub ask { return $node->ask('postgres', @_); }

sub timed_ok
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my ($code, $out, $err) = $node->psql('postgres', $sql);
	my $took = time - $start;
	is($err, '', $name);
	cmp_ok($took, '<', $DDL_LIMIT, sprintf 'in %.2f s', $took);
	return;
}

sub make
{
	my ($db) = @_;
	ask("CREATE DATABASE $db");
	$node->ask($db, 'CREATE EXTENSION jobq');
	$node->ask($db, "SELECT count(*) FROM jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 50)))");
	$node->is_served($db, "$db is served");
	return;
}

# Databases

make($_) for qw(plain forced source named bystander);
my $mark = $node->log_end;

timed_ok('DROP DATABASE plain', 'DROP DATABASE where a maintainer lives');
timed_ok('DROP DATABASE forced WITH (FORCE)', 'DROP DATABASE ... WITH (FORCE)');
timed_ok('CREATE DATABASE copy TEMPLATE source', 'CREATE DATABASE ... TEMPLATE of such a database');
$node->is_served('source', 'the original is served again');
is($node->ask('copy', 'SELECT count(*) FROM jobq.jobs'), '50', 'the copy has its jobs');
timed_ok('ALTER DATABASE named RENAME TO renamed', 'ALTER DATABASE ... RENAME');
$node->is_served('renamed', 'it is served under its new name');
is($node->ask('renamed', 'SELECT count(*) FROM jobq.claim(batch => 100)'), '50', 'with its jobs');
$node->ask('postgres', "SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''");
timed_ok('ALTER DATABASE renamed SET TABLESPACE elsewhere', 'ALTER DATABASE ... SET TABLESPACE');
$node->is_served('renamed', 'it is served where it is now');
{
	my $load = $node->load('bystander', clients => 2);
	ask('CREATE DATABASE other');
	timed_ok('DROP DATABASE other', 'DROP DATABASE of another database, under load');
	timed_ok('CREATE DATABASE other TEMPLATE template0', 'CREATE DATABASE ... TEMPLATE template0');
	timed_ok('DROP DATABASE other', 'and DROP DATABASE again');
	JobqServer::stop_program($load);
}
# Three times in a row, right after CREATE EXTENSION too, when the maintainer is just arriving.
for my $turn (1 .. 3)
{
	ask('CREATE DATABASE brief');
	$node->ask('brief', 'CREATE EXTENSION jobq');
	timed_ok('DROP DATABASE brief', "DROP DATABASE right after CREATE EXTENSION, $turn");
}
is(ask("SELECT count(*) FROM pg_database WHERE datconnlimit = -2"), '0', 'no database is left half dropped');
my $errors = grep { /FATAL|ERROR/ && !/terminating (background worker|connection)|connection to client lost|database "brief" does not exist|database \d+ does not exist/ }
  split /\n/, $node->log_since($mark);
is($errors, 0, 'no errors in the log') or diag $node->log_since($mark);
$node->is_served($_, "$_ is served") for qw(source renamed bystander);

# One that waits for a lock is terminated with the session that holds it.
{
	my $blocker = $node->background_psql('renamed');
	$blocker->query_safe('BEGIN; LOCK TABLE jobq._job IN ACCESS EXCLUSIVE MODE');
	$node->becomes('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = 'renamed' AND wait_event_type = 'Lock'",
		'1', 'a maintainer waits for a table lock');
	timed_ok('DROP DATABASE renamed WITH (FORCE)', 'DROP DATABASE ... WITH (FORCE) of its database');
	eval { $blocker->quit };
}
$node->log_is_clean;

# Shutdown

my %slowest;
sub stop_and_time
{
	my ($what, $mode, $turns, $prepare, $clean) = @_;
	for my $turn (1 .. $turns)
	{
		my @handles = $prepare->();
		my $took = $node->seconds_to_stop($mode);
		ok(defined $took && $took < $STOP_LIMIT, "$mode shutdown, $what, $turn");
		$slowest{"$mode, $what"} = max($slowest{"$mode, $what"} // 0, $took // 999);
		JobqServer::stop_program($_) for @handles;
		$clean->() if $clean;
		$node->start;
		$node->is_served('source', 'served after the start');
	}
	return;
}

stop_and_time('idle', 'fast', 3, sub { return () });
stop_and_time('idle', 'smart', 2, sub { return () });
stop_and_time('under load', 'fast', 3, sub {
	my $load = $node->load('source');
	$node->becomes('source', "SELECT count(*) > 20 FROM jobq.jobs WHERE kind = 'load' AND state = 'completed'", 't', 'the load runs');
	$node->ask('source', "SELECT jobq.purge('default', 'completed', '0')");
	return ($load);
});

# Waiting for a synchronous standby that does not exist: the maintainer has rescued a job and cannot commit.
stop_and_time(
	'its commit waits for a synchronous standby', 'fast', 2,
	sub {
		$node->ask('source', "SELECT jobq.enqueue('sync')");
		$node->ask('source', "SELECT count(*) FROM jobq.claim(kinds => '{sync}', lease_for => '1 s')");
		$node->set_for_all('synchronous_standby_names', 'nobody');
		$node->becomes('postgres', "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = 'source'",
			'SyncRep', 'the maintainer waits for a standby that is not there');
		return ();
	},
	sub { $node->append_conf('postgresql.auto.conf', "synchronous_standby_names = ''") });

stop_and_time(
	'it waits for a table lock', 'fast', 2,
	sub {
		my $blocker = $node->background_program([ 'psql', '-XAtq', '-d', $node->connstr('source'), '-c',
			'BEGIN; LOCK TABLE jobq._job IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(120)' ]);
		$node->becomes('postgres', "SELECT wait_event_type FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = 'source'",
			'Lock', 'the maintainer waits for a table lock');
		return ($blocker);
	});

# While databases are being looked at: a stop in the first moments of the server.
stop_and_time('in its first moments', 'fast', 2, sub { $node->restart; return () });

for my $what (sort keys %slowest)
{
	diag sprintf '%s: %.2f s at most (promise: %d s)', $what, $slowest{$what}, $STOP_PROMISE;
}
$node->log_is_clean;
$node->stop;
done_testing();
