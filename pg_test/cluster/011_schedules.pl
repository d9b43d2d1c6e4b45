# Each tick of a schedule is enqueued exactly once.
#
# A schedule every second, whose maintainer is killed again and again and whose server crashes in between, has one job for each second
# and none twice; so it has after a failover to a standby. Ticks that were missed are made up for as catch_up says, after an outage and
# after a jump of the clock; a clock that is set back makes no tick come again. A restored copy keeps its schedules and enqueues
# nothing before jobq.resume_after_restore(), not while it is being restored either. What one schedule suffers, a queue that is
# full, a row or a key that another session has locked, does not touch the others.
#
# JOBQ_SCHEDULE_SECONDS: how long the schedule runs in peace, and then under kills and crashes (8). How late its jobs were is noted.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $seconds = $ENV{JOBQ_SCHEDULE_SECONDS} || 8;
my $db = 'app';

# The ticks of a schedule: how many, how many different ones, how many there should be from the first to the last one. Three equal
# numbers mean: each once, none missing.
sub ticks
{
	my ($schedule, $every) = @_;
	return "SELECT count(*), count(DISTINCT j.headers ->> 'jobq_tick'),
		extract(epoch FROM max((j.headers ->> 'jobq_tick')::timestamptz) - min((j.headers ->> 'jobq_tick')::timestamptz))::int / $every + 1
		FROM jobq.jobs AS j WHERE j.headers ->> 'jobq_schedule' = '$schedule'";
}

sub each_once
{
	my ($node, $schedule, $name, $every) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($all, $different, $expected) = split /\|/, $node->ask($db, ticks($schedule, $every // 1));
	is("$all $different", "$expected $expected", "$name: each tick once, none missing ($all of them)");
	return $all;
}

# How late the jobs of a schedule were enqueued, in ms, since a moment.
sub note_lateness
{
	my ($node, $schedule, $what, $since) = @_;
	my $said = $node->ask($db, "SELECT format('%s jobs, p50 %s ms, p99 %s ms, max %s ms', count(*),
			round(percentile_cont(0.5) WITHIN GROUP (ORDER BY late)::numeric, 1), round(percentile_cont(0.99) WITHIN GROUP (ORDER BY late)::numeric, 1), round(max(late), 1))
		FROM (SELECT 1000 * extract(epoch FROM j.enqueued_at - (j.headers ->> 'jobq_tick')::timestamptz) AS late
			FROM jobq.jobs AS j WHERE j.headers ->> 'jobq_schedule' = '$schedule' AND j.enqueued_at >= '$since') AS l");
	note "lateness $what: $said";
	return;
}

my $node = JobqServer->boot('main', init => { allows_streaming => 1 });
sub ask { return $node->ask($db, @_); }
sub becomes { local $Test::Builder::Level = $Test::Builder::Level + 1; return $node->becomes($db, @_); }
$node->ask('postgres', "CREATE DATABASE $db");
ask('CREATE EXTENSION jobq');
$node->is_served($db, 'the maintainer ticks');
ask("SELECT jobq.create_queue('pile')");

# In peace

my $since = ask('SELECT clock_timestamp()');
ask(q(SELECT jobq.schedule('second', '* * * * * *', 'k', queue => 'pile', catch_up => 'all', options => '{"catch_up_max": 10000}')));
ask(q(SELECT jobq.schedule('interval', '2 s', 'k', queue => 'pile', catch_up => 'all')));
becomes("SELECT count(*) >= $seconds FROM jobq.jobs WHERE headers ->> 'jobq_schedule' = 'second'", 't', "a schedule runs for $seconds s", $seconds + 30);
each_once($node, 'second', 'in peace');
each_once($node, 'interval', 'every two seconds', 2);
note_lateness($node, 'second', 'in peace', $since);
is(ask("SELECT count(*) FROM jobq.jobs WHERE headers ->> 'jobq_schedule' = 'second' AND enqueued_at < run_at"), '0', 'none is early');
# A waiting worker has it at once.
{
	ask("SELECT jobq.schedule('waited', '1 s', 'waited')");
	like(ask("CALL jobq.claim_wait('default', kinds => '{waited}', wait => '20 s')"), qr/"jobq_schedule": "waited"/, 'a session that waits is woken');
	ask("SELECT jobq.unschedule('waited')");
}

# The maintainer killed again and again, the server crashed.

$since = ask('SELECT clock_timestamp()');
my ($end, $kills, $crashes, $next_crash) = (time + $seconds, 0, 0, time + $seconds / 2);
while (time < $end)
{
	if (time > $next_crash)
	{
		$node->stop('immediate');
		$node->start;
		$crashes++;
		$next_crash = time + 30 + rand 30;
	}
	my ($code, $out) = $node->psql('postgres', "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'");
	$kills += $out if defined $out && $out =~ /^\d+$/;
	sleep rand 1.5;
}
$node->is_served($db, 'it comes back');
my $now = ask("SELECT date_trunc('second', clock_timestamp())");
becomes("SELECT min(next_run_at) > '$now' FROM jobq.schedules", 't', 'and catches up');
each_once($node, 'second', "$kills kills and $crashes crashes");
each_once($node, 'interval', "every two seconds, $kills kills and $crashes crashes", 2);
note_lateness($node, 'second', 'under kills and crashes', $since);

# What others suffer

my $log = $node->log_end;
my $holder = $node->background_psql($db);
$holder->query_safe("BEGIN; SELECT jobq.alter_schedule('interval', priority => 7)");
my $keyholder = $node->background_psql($db);
$keyholder->query_safe("BEGIN; SELECT jobq.enqueue('mine', queue => 'pile', unique_key => 'schedule/keyed')");
ask("SELECT jobq.create_queue('full', max_depth => 1)");
ask("SELECT jobq.enqueue('k', queue => 'full')");
ask("SELECT jobq.schedule('blocked', '1 s', 'k', queue => 'full', catch_up => 'all')");
ask("SELECT jobq.schedule('keyed', '1 s', 'k', queue => 'pile', overlap => 'skip')");
my $before = ask("SELECT count(*) FROM jobq.jobs WHERE headers ->> 'jobq_schedule' = 'second'");
becomes("SELECT string_agg(name, ' ' ORDER BY name) FROM jobq.schedules WHERE last_error IS NOT NULL", 'blocked keyed', 'what cannot be enqueued says why');
like(ask("SELECT last_error FROM jobq.schedules WHERE name = 'blocked'"), qr/max_depth/, 'a full queue');
like(ask("SELECT last_error FROM jobq.schedules WHERE name = 'keyed'"), qr/lock timeout/, 'a key that an open transaction has');
like($node->diagnosis($db, 'schedules'), qr/^warn\|.*2 could not enqueue/, 'diagnose() says so');
becomes("SELECT count(*) > $before + 4 FROM jobq.jobs WHERE headers ->> 'jobq_schedule' = 'second'", 't', 'the others go on');
is($node->count_in_log(qr/jobq maintainer: schedule (blocked|keyed) could not enqueue/, $log), 2, 'the log has one line for each, not one for each try');
$holder->query_safe('COMMIT');
$holder->quit;
$keyholder->query_safe('ROLLBACK');
$keyholder->quit;
ask("SELECT jobq.alter_queue('full', max_depth => 1000)");
becomes("SELECT count(*) FROM jobq.schedules WHERE last_error IS NOT NULL OR next_run_at < clock_timestamp() - interval '3 s'", '0', 'when the way is free they catch up');
each_once($node, 'blocked', 'a queue that was full');
each_once($node, 'interval', 'a row that was locked', 2);
is(ask("SELECT count(*) FROM jobq.jobs WHERE headers ->> 'jobq_schedule' = 'keyed'"), '1', 'overlap skip: one job');
ask("SELECT jobq.unschedule('blocked'), jobq.unschedule('keyed')");

# Two-phase commit: nobody tells the maintainer, and it finds out.
ask("BEGIN; SELECT jobq.schedule('prepared', '1 s', 'k', queue => 'pile'); PREPARE TRANSACTION 'p'");
ask("COMMIT PREPARED 'p'");
becomes("SELECT last_run_at IS NOT NULL FROM jobq.schedules WHERE name = 'prepared'", 't', 'a schedule that was prepared runs');
ask("SELECT jobq.unschedule('prepared')");

# A standby looks; promoted, it goes on where the primary was.

$node->backup('base');
my $standby = JobqServer->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$standby->becomes($db, "SELECT count(*) > 0 FROM jobq.jobs WHERE headers ->> 'jobq_schedule' = 'second'", 't', 'a standby follows');
is($standby->ask($db, "SELECT count(*) FROM jobq.preview('second', 5)"), '5', 'preview works on it');
is($standby->ask($db, 'SELECT count(*) FROM jobq.schedules'), '2', 'the view as well');
is($standby->refusal($db, "SELECT $_"), '25006', s/\(.*//r . ' is refused')
  for "jobq.schedule('n', '\@daily', 'k')", "jobq.alter_schedule('second')", "jobq.unschedule('second')", "jobq.pause_schedule('second')",
  "jobq.resume_schedule('second')", "jobq.run_now('second')";
$node->stop('immediate');
$standby->promote;
$standby->is_served($db, 'after promotion the maintainer starts by itself');
$now = $standby->ask($db, "SELECT date_trunc('second', clock_timestamp())");
$standby->becomes($db, "SELECT min(next_run_at) > '$now'::timestamptz + interval '2 s' FROM jobq.schedules", 't', 'and goes on with the schedules');
each_once($standby, 'second', 'after a failover');
each_once($standby, 'interval', 'every two seconds, after a failover', 2);
$standby->log_is_clean;
$standby->stop;
$node->log_is_clean;
$node->start;

# Dump and restore. A dump that has schedules and no job, held up before its last statement; then complete.

$node->is_served($db, 'the original is up again');
ask("SELECT jobq.unschedule('interval')");
$node->ask('postgres', "CREATE DATABASE source");
$node->ask('source', 'CREATE EXTENSION jobq');
$node->ask('source', "SELECT jobq.schedule('daily', '0 3 * * *', 'k', timezone => 'Europe/Berlin', payload => '{\"n\": 1.10}')");
$node->ask('source', "SELECT jobq.schedule('eager', '1 s', 'eager', overlap => 'skip')");
$node->becomes('source', "SELECT count(*) FROM jobq.jobs WHERE kind = 'eager'", '1', 'the original runs');
$node->ask('source', "SELECT jobq.pause_schedule('eager'), count(jobq.delete(id)) FROM jobq.jobs");
# As if it had not been paused: due at once.
$node->ask('source', "UPDATE jobq._schedule SET paused = false, next_at = now() - interval '1 h', due_at = now() + interval '1 h' WHERE name = 'eager'");
my $contents = $node->contents('source');
like($contents, qr/eager/, 'there are schedules to dump');
my $folder = $node->basedir;
$node->command_ok([ 'pg_dump', '-d', $node->connstr('source'), '-f', "$folder/schedules.sql" ], 'dump');
my $text = slurp_file("$folder/schedules.sql") =~ s/^\\(un)?restrict .*$//mgr;
my @parts = split /(?=^SELECT pg_catalog\.setval\('jobq\._origin)/m, $text, 2;
is(scalar @parts, 2, 'it sets the sequence that tells a copy');
append_to_file("$folder/most.sql", $parts[0] . "UPDATE jobq._schedule SET due_at = next_at;\n");
append_to_file("$folder/rest.sql", $parts[1]);
$node->ask('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', "$folder/most.sql" ], 'most of it is restored');
$node->seconds_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = 'copy'");
my $mark = $node->ask('postgres', "SELECT xact_commit FROM pg_stat_database WHERE datname = 'copy'");
$node->seconds_until('postgres', "SELECT xact_commit > $mark + 15 FROM pg_stat_database WHERE datname = 'copy'");
is($node->ask('copy', 'SELECT count(*) FROM jobq.jobs'), '0', 'while it is being restored nothing is enqueued');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('copy'), '-f', "$folder/rest.sql" ], 'the rest of it');
$node->is_served('copy', 'the copy is served');
like($node->diagnosis('copy', 'restored_copy'), qr/^warn/, 'and waits');
is($node->ask('copy', 'SELECT jobq.tick()'), '0', 'tick() enqueues nothing');
is($node->ask('copy', 'SELECT count(*) FROM jobq.jobs'), '0', 'nor does the maintainer');
is($node->ask('copy', "SELECT string_agg(concat_ws(' ', name, cron, timezone, payload, overlap), ', ' ORDER BY name) FROM jobq.schedules"),
	'daily 0 3 * * * Europe/Berlin {"n": 1.10} allow, eager 1 s UTC {} skip', 'the schedules are there');
is($node->ask('copy', 'SELECT jobq.resume_after_restore()'), 't', 'resume_after_restore()');
$node->becomes('copy', "SELECT count(*) FROM jobq.jobs WHERE kind = 'eager'", '1', 'then they go on');
$node->log_is_clean;
$node->stop;

# The clock

SKIP:
{
	my $library = $ENV{JOBQ_LIBFAKETIME};
	skip 'JOBQ_LIBFAKETIME does not name a libfaketime.so', 12 unless $library;
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
	$node->ask('postgres', "CREATE DATABASE $db");
	my $ask = sub { return $node->ask($db, @_); };
	$ask->('CREATE EXTENSION jobq');
	$node->is_served($db, 'with a clock that can be set: the maintainer ticks');
	$ask->("SELECT jobq.schedule('second', '* * * * * *', 'k', catch_up => 'skip')");
	$ask->("SELECT jobq.schedule('$_', '* * * * *', 'k', catch_up => '$_', options => '{\"catch_up_max\": 5}')") for qw(skip last all);
	$node->becomes($db, "SELECT count(*) >= 2 FROM jobq.jobs WHERE headers ->> 'jobq_schedule' = 'second'", 't', 'a schedule runs');
	my $jump = $ask->('SELECT clock_timestamp()');
	$set->('+2h');
	$node->becomes($db, "SELECT bool_and(next_run_at > '$jump'::timestamptz + interval '2 h') FROM jobq.schedules", 't', 'two hours ahead: they go on there');
	# Of those from the two hours that were left out; one or two are not missed, and one may have come before the jump.
	my $made = sub { return "SELECT count(*) FROM jobq.jobs WHERE headers ->> 'jobq_schedule' = '$_[0]' AND (headers ->> 'jobq_tick')::timestamptz > '$jump'::timestamptz + interval '1 min'"; };
	like($ask->($made->('skip')), qr/^[12]$/, 'skip: what was missed is dropped');
	like($ask->($made->('last')), qr/^[12]$/, 'last: the newest');
	like($ask->($made->('all')), qr/^[67]$/, 'all: the newest five');
	$set->('-1h');
	my $count = $ask->('SELECT count(*) FROM jobq.jobs');
	$node->is_served($db, 'three hours back: the maintainer goes on');
	my $later = $ask->("SELECT clock_timestamp() + interval '3 s'");
	$node->seconds_until($db, "SELECT clock_timestamp() > '$later'");
	is($ask->('SELECT count(*) FROM jobq.jobs'), $count, 'no tick comes again');
	is($ask->("SELECT count(*) - count(DISTINCT (headers ->> 'jobq_schedule', headers ->> 'jobq_tick')) FROM jobq.jobs"), '0', 'none is there twice');
	like($node->diagnosis($db, 'schedules'), qr/^warn\|.*still to come.*resume_schedule/, 'diagnose() says that they wait, and how they begin now');
	$ask->("SELECT jobq.pause_schedule('second'), jobq.resume_schedule('second')");
	$node->becomes($db, "SELECT count(*) > $count FROM jobq.jobs", 't', 'paused and resumed they begin now');
	$node->log_is_clean;
	$node->stop;
}
done_testing();
