# A crash of anything costs nothing but time.
#
# SIGKILL of a backend (all server processes start anew), of the postmaster, and an immediate stop, all under load: the background
# processes are back, every enqueue that was acknowledged is there, every job is in exactly one state, and no lease comes twice.
# Workers could not send heartbeats while the server was away: a running job is not taken from its worker before its own lease length
# has passed since the start. The same grace follows a jump of the wall clock.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use List::Util qw(max);
use PostgreSQL::Test::Utils qw(append_to_file);
use Test::More;
use Time::HiRes qw(time sleep);

my $node = JobqServer->boot('main');
$node->ask('postgres', 'CREATE EXTENSION jobq');
$node->is_served('postgres', 'the maintainer ticks');
sub ask { return $node->ask('postgres', @_); }

# A client that enqueues one job after the other, each acknowledged by its id on a line of `output`.
sub producer
{
	my ($output) = @_;
	my $script = $node->basedir . '/enqueue.sql';
	append_to_file($script, "SELECT jobq.enqueue('acknowledged');\n" x 20_000) unless -e $script;
	return $node->background_program([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-v', 'ON_ERROR_STOP=1', '-f', $script ],
		$output);
}

# Workers that note every lease they were given before they do anything else with it.
ask("CREATE TABLE given (id uuid, lease bigint)");
sub worker
{
	my ($output) = @_;
	my $script = $node->basedir . '/claim.sql';
	append_to_file($script, "SELECT id, lease FROM jobq.claim(batch => 3, worker => 'w', lease_for => '2 s');\n" x 20_000) unless -e $script;
	return $node->background_program([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-v', 'ON_ERROR_STOP=1', '-f', $script ],
		$output);
}

my (%acknowledged, %leases, %last_lease);
my $backwards = 0;

sub crash
{
	my ($name, $strike) = @_;
	my ($made, $taken) = ('', '');
	my $producer = producer(\$made);
	my $worker = worker(\$taken);
	my $launcher = $node->launcher;
	# Until both are in full swing.
	$node->seconds_until('postgres', sub { $producer->pump_nb; $worker->pump_nb; () = $made =~ /\n/g; (($made =~ tr/\n//) > 50 && ($taken =~ tr/\n//) > 20) ? 't' : 'f' });
	my $start = time;
	$strike->();
	# psql notices by itself that its server is gone.
	for my $client ($producer, $worker) { eval { $client->finish; }; }
	my $back = $node->seconds_until('postgres', "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE backend_type = 'jobq launcher' AND pid <> $launcher)");
	ok(defined $back, "$name: the launcher is back");
	$node->is_served('postgres', "$name: so is the maintainer");
	note sprintf '%s: maintainer ticks %.2f s after the blow', $name, time - $start;
	my @ids = grep { /^[0-9a-f-]{36}$/ } split /\n/, $made;
	cmp_ok(scalar @ids, '>', 50, "$name: jobs were acknowledged before");
	$acknowledged{$_} = 1 for @ids;
	for my $line (grep { /^[0-9a-f-]{36}\|\d+$/ } split /\n/, $taken)
	{
		my ($id, $lease) = split /\|/, $line;
		$backwards++ if $lease <= ($last_lease{$id} // 0);
		$leases{"$id $lease"}++;
		$last_lease{$id} = max($lease, $last_lease{$id} // 0);
	}
	my $there = ask('SELECT id FROM jobq.jobs');
	my %there = map { $_ => 1 } split /\n/, $there;
	my @missing = grep { !$there{$_} } keys %acknowledged;
	is(scalar @missing, 0, "$name: all " . keys(%acknowledged) . ' acknowledged jobs are there');
	my $fresh = $node->enqueue('postgres', 'after', "priority => 0");
	my ($id, $lease) = $node->claim('postgres', "kinds => '{after}'");
	is($id, $fresh, "$name: work goes on");
	is(ask("SELECT jobq.complete('$id', $lease)"), 'completed', "$name: to the end");
	return;
}

crash('SIGKILL of a backend', sub {
	my $victim = ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND query LIKE '%jobq.claim(batch%' AND pid <> pg_backend_pid() LIMIT 1");
	kill 'KILL', $victim;
	$node->seconds_until('postgres', 'SELECT 1', '1');
});
crash('SIGKILL of the maintainer', sub {
	kill 'KILL', $node->maintainer('postgres');
	$node->seconds_until('postgres', 'SELECT 1', '1');
});
crash('SIGKILL of the postmaster', sub { $node->kill9; $node->start_after_kill });
crash('immediate stop', sub { $node->stop('immediate'); $node->start });
crash('SIGKILL of the launcher', sub {
	kill 'KILL', $node->launcher;
	$node->seconds_until('postgres', 'SELECT 1', '1');
});

# Whatever the lost, unflushed claims were: everything is rescued, and every job can be claimed with a larger lease.
$node->becomes('postgres', "SELECT count(*) FROM jobq.jobs WHERE state = 'running'", '0', 'all jobs of the dead workers come back');
ok(!(grep { $_ > 1 } values %leases), scalar(keys %leases) . ' leases given, none twice');
is($backwards, 0, 'each job\'s leases increase');
{
	my $rows = ask("SELECT id, lease FROM jobq.claim(batch => 10000)");
	my $worse = grep { my ($id, $lease) = split /\|/; defined $last_lease{$id} && $lease <= $last_lease{$id} } split /\n/, $rows;
	is($worse, 0, 'and go on increasing after all the crashes');
}
is(ask("SELECT count(*) FROM (SELECT id FROM jobq._job UNION ALL SELECT id FROM jobq._dead UNION ALL SELECT id FROM jobq._history) AS a
	GROUP BY id HAVING count(*) > 1 LIMIT 1"), '', 'no job is in two states');
ask('TRUNCATE jobq._job');

# A clock that was behind: the previous lease is ahead of it.
{
	my $id = $node->enqueue('postgres', 'ahead');
	my $ahead = 8_000_000_000_000_000;
	ask("UPDATE jobq._job SET lease = $ahead WHERE id = '$id'");
	my (undef, $lease) = $node->claim('postgres', "kinds => '{ahead}', lease_for => '1 h'");
	cmp_ok($lease, '>', $ahead, 'a lease ahead of the clock (it was set back) is still followed by a larger one');
	cmp_ok($lease, '<', 2**53, 'below 2^53');
	$node->stop('immediate');
	$node->start;
	my $now = ask("SELECT lease FROM jobq._job WHERE id = '$id'");
	cmp_ok($now, '>=', $ahead, 'not lost');
	is(ask("SELECT jobq.complete('$id', $lease)"), 'completed', 'it was kept through the crash: such a claim does not commit asynchronously');
}

# Grace after a start

for my $how ([ 'a crash', sub { $node->kill9; $node->start_after_kill } ], [ 'a clean restart', sub { $node->restart } ],
	[ 'the crash of a backend', sub {
		my $session = $node->background_psql('postgres');
		my $victim = $session->query_safe('SELECT pg_backend_pid()');
		kill 'KILL', $victim;
		eval { $session->quit };
		$node->seconds_until('postgres', 'SELECT 1', '1'); } ])
{
	my ($name, $strike) = @$how;
	$node->set_for_all('jobq.enabled', 'off');
	$node->seconds_until('postgres', sub { $node->maintainer('postgres') }, '');
	my %length = (short => 1, long => 4);
	my %id;
	for my $kind (sort keys %length)
	{
		$node->enqueue('postgres', $kind);
		($id{$kind}) = $node->claim('postgres', "worker => 'away', kinds => '{$kind}', lease_for => '$length{$kind} s'");
	}
	$node->age_lease('postgres', $id{$_}, 60) for keys %id;
	# Takes effect at the start, as if the leases had ended while the server was away.
	ask('ALTER SYSTEM RESET jobq.enabled');
	my $before = ask('SELECT clock_timestamp()');
	$strike->();
	$node->reload;
	$node->is_served('postgres', "after $name the maintainer ticks");
	is($node->state('postgres', $id{long}), 'running', "after $name a lease that ended meanwhile does not cost the job at once");
	is(ask("SELECT jobq.rescue_zombies()") >= 0 ? $node->state('postgres', $id{long}) : '', 'running', 'not even when somebody asks for it');
	is(ask("SELECT jobq.rescue_zombies('1 s') IS NOT NULL") eq 't' ? $node->state('postgres', $id{long}) : '', 'running', 'nor with older_than');
	for my $kind (sort { $length{$a} <=> $length{$b} } keys %id)
	{
		$node->becomes('postgres', "SELECT state FROM jobq.job('$id{$kind}')", 'pending', "after its grace the $kind job is rescued");
		my $after = ask("SELECT extract(epoch FROM (attempt_errors -> -1 ->> 'at')::timestamptz - '$before') FROM jobq.job('$id{$kind}')");
		cmp_ok($after, '>=', $length{$kind}, sprintf 'not before its own lease length of %d s (%.1f s after the blow)', $length{$kind}, $after);
	}
	ask('TRUNCATE jobq._job');
}
$node->log_is_clean;
$node->stop;

# The wall clock jumps

SKIP:
{
	my $library = $ENV{JOBQ_LIBFAKETIME};
	skip 'JOBQ_LIBFAKETIME does not name a libfaketime.so', 8 unless $library;
	my $node = JobqServer->boot('clock', start => 0);
	my $offset = $node->basedir . '/offset';
	my $set = sub { open my $file, '>', $offset or die $!; print $file "$_[0]\n"; close $file; };
	$set->('+0');
	{
		local $ENV{LD_PRELOAD} = $library;
		local $ENV{FAKETIME_TIMESTAMP_FILE} = $offset;
		local $ENV{FAKETIME_NO_CACHE} = 1;
		local $ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;
		$node->start;
	}
	$node->ask('postgres', 'CREATE EXTENSION jobq');
	$node->is_served('postgres', 'with a clock that can be set: the maintainer ticks');
	$node->enqueue('postgres', 'k') for 1 .. 3;
	my ($id, $lease) = $node->claim('postgres', "worker => 'beats', lease_for => '4 s'");
	my ($lost) = $node->claim('postgres', "worker => 'lost', lease_for => '4 s'");
	my $begin = time;
	$set->('+2h');
	my $beats = 0;
	while (time - $begin < 3)
	{
		$beats++ if $node->ask('postgres', "SELECT jobq.heartbeat('$id', $lease)") eq 't';
		sleep 0.2;
	}
	is($node->ask('postgres', "SELECT state || crashes FROM jobq.job('$id')"), 'running0', "two hours ahead: a job with heartbeats ($beats) is kept");
	$node->becomes('postgres', "SELECT state FROM jobq.job('$lost')", 'pending', 'a lost one is rescued after its grace');
	cmp_ok(time - $begin, '>=', 3.5, 'not before');
	$set->('-1d');
	$node->is_served('postgres', 'a day back: the maintainer goes on');
	# What was enqueued a day ahead is not ready yet; a new job is.
	my $third = $node->enqueue('postgres', 'third');
	is(($node->claim('postgres', "worker => 'third', lease_for => '1 s'"))[0], $third, 'new jobs are claimed');
	$node->becomes('postgres', "SELECT state FROM jobq.job('$third')", 'pending', 'and rescued');
	$node->log_is_clean;
	$node->stop;
}
done_testing();
