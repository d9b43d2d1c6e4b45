# pg_upgrade and single-user mode: no background process where none may be, and the jobs survive.
#
# While pg_upgrade runs the old and the new server, both with jobq preloaded, no jobq process starts in either. Afterwards jobs in
# every state, history, options, rights and leases are what they were; workers go on with the leases they hold; and the duties run
# without resume_after_restore(), because the upgraded database is the original and no copy. `postgres --single` works with preload.
#
# JOBQ_OLD_BINDIR names the programs of the server to upgrade from, with jobq installed there; without it: from this version to itself.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use File::Basename qw(dirname);
use File::Find qw(find);
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

sub version_of
{
	my ($bindir) = @_;
	my ($major) = `"$bindir/postgres" --version` =~ /(\d+)/;
	return $major;
}
my $new_bindir = `pg_config --bindir`;
chomp $new_bindir;
my $old_bindir = $ENV{JOBQ_OLD_BINDIR};
$old_bindir = $new_bindir unless $old_bindir && version_of($old_bindir) <= version_of($new_bindir);
diag 'from ' . version_of($old_bindir) . ' to ' . version_of($new_bindir)
  . ($ENV{JOBQ_OLD_BINDIR} ? '' : ' (JOBQ_OLD_BINDIR is not set)');

# Both made with the same options, whatever each version's defaults are.
my @initdb = ('--locale=C', '--encoding=UTF8', '--data-checksums');
my $old = JobqServer->boot('old', new => { install_path => dirname($old_bindir) }, init => { extra => [@initdb] });
$old->ask('postgres', 'CREATE ROLE worker LOGIN; CREATE ROLE watcher LOGIN');
$old->ask('postgres', 'CREATE DATABASE app');
my @databases = ('app', 'postgres');
my (%job, %lease, %contents);
for my $db (@databases)
{
	$old->ask($db, 'CREATE EXTENSION jobq');
	$old->ask($db, "SELECT jobq.alter_queue('default', max_attempts => 6), jobq.create_queue('q', 1, 4)");
	$old->ask($db, "SELECT jobq.grant_access('worker', 'worker'), jobq.grant_access('watcher', 'reader')");
	for my $kind (qw(waiting later keyed held expired done broken stopped))
	{
		my $more = { later => ", delay => '3 h'", keyed => ", unique_key => 'k1'" }->{$kind} // '';
		$job{$db}{$kind} = $old->enqueue($db, $kind, "payload => '{\"n\": 1.10}', queue => 'q'$more");
	}
	(undef, $lease{$db}{$_}) = $old->claim($db, "'q', kinds => '{$_}', worker => 'w-$_', lease_for => '1 h'") for qw(held done broken);
	$old->ask($db, "SELECT jobq.complete('$job{$db}{done}', $lease{$db}{done}, '{\"sum\": 1.10}')");
	$old->ask($db, "SELECT jobq.fail('$job{$db}{broken}', $lease{$db}{broken}, 'it broke', retry => false)");
	$old->ask($db, "SELECT jobq.cancel('$job{$db}{stopped}')");
	$old->ask($db, "SELECT count(*) FROM jobq.enqueue_many('bulk', (SELECT jsonb_agg(jsonb_build_object('n', n)) FROM generate_series(1, 200) AS n))");
	$old->ask($db, "WITH c AS MATERIALIZED (SELECT array_agg(id) AS ids, array_agg(lease) AS leases FROM jobq.claim(batch => 100, kinds => '{bulk}'))
		SELECT count(*) FROM c, jobq.complete_many(c.ids, c.leases)");
}
$old->set_for_all('jobq.enabled', 'off');
for my $db (@databases)
{
	$old->becomes('postgres', sub { $old->maintainer($db) }, '', "$db: the duties rest");
	# Lost by the time of the upgrade: the first thing a maintainer would see to.
	$old->claim($db, "'q', kinds => '{expired}', worker => 'gone', lease_for => '3 s'");
	$old->age_lease($db, $job{$db}{expired}, 600);
	$contents{$db} = $old->contents($db);
}
$old->ask('postgres', 'ALTER SYSTEM RESET jobq.enabled');

# Postgres 15.20 and its contemporaries mark every column with an internal option, pg_attver, and hide it from their own pg_dump. A
# newer major of an earlier date knows nothing of it, and its pg_upgrade fails with any table at all. Then, and only then, the marks
# are taken off, so that what jobq has to show is seen all the same.
{
	$old->ask('postgres', 'CREATE TABLE plain (x int)');
	my ($out, $err) = ('', '');
	IPC::Run::run([ "$new_bindir/pg_dump", '-s', '-t', 'plain', '-d', $old->connstr('postgres') ], '>', \$out, '2>', \$err);
	if ($out =~ /pg_attver/)
	{
		diag 'this server cannot take over any table of the old one with its pg_attver marks: they are taken off';
		$old->ask($_, "UPDATE pg_attribute SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) AS o WHERE o NOT LIKE 'pg_attver=%'), '{}')
			WHERE attoptions::text LIKE '%pg_attver=%'") for @databases;
	}
}
$old->stop;

# Single-user mode, before and, below, after

sub single_user
{
	my ($node, $bindir, $db, $sql) = @_;
	my ($out, $err) = ('', '');
	my $in = join '', map { "$_\n" } @$sql;
	IPC::Run::run([ "$bindir/postgres", '--single', '-D', $node->data_dir, $db ], '<', \$in, '>', \$out, '2>', \$err);
	return ($? >> 8, $out, $err);
}
{
	my ($code, $out, $err) = single_user($old, $old_bindir, 'app', [
		'SELECT count(*) AS jobs FROM jobq.jobs;', "SELECT jobq.enqueue('single') IS NOT NULL AS enqueued;",
		"SELECT jobq.complete(c.id, c.lease) AS ended FROM jobq.claim(kinds => '{single}') AS c;", 'SELECT count(*) AS checks FROM jobq.diagnose();',
		"SELECT jobq.delete(id) AS deleted FROM jobq.jobs WHERE kind = 'single';" ]);
	is($code, 0, 'single-user mode with preload starts and stops');
	like($out, qr/enqueued = "t"/, 'a job is enqueued in it');
	like($out, qr/ended = "completed"/, 'claimed and completed');
	like($out, qr/checks = "\d\d"/, 'diagnose() works');
	like($out, qr/deleted = "t"/, 'and the job is deleted again');
	unlike($err, qr/ERROR|FATAL|PANIC|panicked/, 'without an error') or diag $err;
	unlike($err, qr/jobq (launcher|maintainer)/, 'without a background process');
}

# The upgrade

# debug1 has a line for each background process that is started.
$_->append_conf('postgresql.conf', "log_min_messages = debug1\nmax_prepared_transactions = 0") for $old;
my $new = JobqServer->boot('new', init => { extra => [@initdb] }, start => 0, conf => "log_min_messages = debug1\nmax_prepared_transactions = 0");
my $workdir = $new->basedir . '/upgrade';
mkdir $workdir;
{
	chdir $workdir or die $!;
	my @command = ('pg_upgrade', '--no-sync', '--retain', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $old_bindir, '-B', $new_bindir,
		'-s', $new->host, '-p', $old->port, '-P', $new->port);
	$new->command_ok([ @command, '--check' ], 'pg_upgrade --check, both servers with jobq preloaded');
	$new->command_ok(\@command, 'pg_upgrade');
}
my ($lines, $talk) = (0, '');
find(
	sub {
		return unless /\.log$/ && -f;
		for my $line (split /\n/, slurp_file($_))
		{
			$lines++;
			$talk .= "$line\n" if $line =~ /jobq (launcher|maintainer)|PANIC|panicked/;
		}
	},
	$workdir, $new->data_dir . '/pg_upgrade_output.d');
cmp_ok($lines, '>', 100, 'the logs of the servers that pg_upgrade ran are there');
is($talk, '', 'no process of jobq ran in them');

$new->start;
for my $db (@databases)
{
	$new->is_served($db, "$db: the maintainer ticks after the upgrade");
	like($new->diagnosis($db, 'restored_copy'), qr/^ok/, 'an upgraded database is no copy');
	is($new->ask($db, 'SELECT jobq.resume_after_restore()'), 'f', 'there is nothing to resume');
	$new->becomes($db, "SELECT concat_ws(' ', state, crashes) FROM jobq.job('$job{$db}{expired}')", 'pending 1', 'duties run: the lost job is rescued');
	# All but that job is as it was.
	my $without = sub { join "\n", grep { !/$job{$db}{expired}|^counts\|(pending|running)/ } split /\n/, $_[0] };
	my %had = map { $_ => 1 } split /\n/, $without->($contents{$db});
	my %has = map { $_ => 1 } split /\n/, $without->($new->contents($db));
	# MAINTAIN is a right that newer versions give every owner.
	my @lost = grep { !$has{$_} } sort keys %had;
	my @gained = grep { !$had{$_} && !/MAINTAIN/ } sort keys %has;
	is_deeply(\@lost, [], 'nothing is lost: jobs, history, options, rights');
	is_deeply(\@gained, [], 'nothing is added');
	is($new->ask($db, "SELECT jobq.complete('$job{$db}{held}', $lease{$db}{held})"), 'completed', 'a worker goes on with its lease');
	is($new->refusal($db, "SELECT jobq.complete('$job{$db}{done}', $lease{$db}{done})"), 'JQ002', 'and a repeated complete is told as such');
	is($new->ask($db, "SELECT jobq.enqueue('keyed', queue => 'q', unique_key => 'k1')"), $job{$db}{keyed}, 'unique keys hold');
	is($new->ask($db, "SELECT jobq.create_queue('later')"), 't', 'new queues are made');
	my $id = $new->enqueue($db, 'new', "queue => 'later'");
	my ($claimed, $lease) = $new->claim($db, "'later'");
	is($new->ask($db, "SELECT jobq.complete('$claimed', $lease)"), 'completed', 'new jobs are done');
	is($new->refusal($db, "SET ROLE worker; SELECT count(*) FROM jobq.claim()"), '', 'rights hold');
}
$new->log_is_clean;
$new->stop;

{
	my ($code, $out, $err) = single_user($new, $new_bindir, 'app', ["SELECT jobq.enqueue('single') IS NOT NULL AS enqueued;"]);
	is($code, 0, 'single-user mode of the new server');
	like($out, qr/enqueued = "t"/, 'takes jobs');
	unlike($err, qr/ERROR|FATAL|PANIC|panicked/, 'without an error') or diag $err;
}
done_testing();
