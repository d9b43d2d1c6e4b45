# A standby looks and does nothing; a promoted one takes over.
#
# In recovery there is no jobq process and no word of jobq in the log. Everything that writes is refused with 25006, everything that
# looks works. After promotion the maintainer starts by itself, claims flow, leases go on increasing, and a job that is running is
# not taken from its worker before its own lease length has passed since the promotion.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use Test::More;
use Time::HiRes qw(time);

my $primary = JobqServer->boot('primary', init => { allows_streaming => 1 }, conf => 'max_connections = 30');
$primary->ask('postgres', 'CREATE DATABASE app');
$primary->ask('app', 'CREATE EXTENSION jobq');
$primary->is_served('app', 'the maintainer ticks on the primary');
$primary->backup('base');
my $standby = JobqServer->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

sub ask { return $standby->ask('app', @_); }

# One job in each state.
my %job;
$primary->ask('app', "SELECT jobq.create_queue('q', max_attempts => 1)");
for my $kind (qw(waiting later held long done broken stopped))
{
	$job{$kind} = $primary->enqueue('app', $kind, $kind eq 'later' ? "queue => 'q', delay => '1 h'" : "queue => 'q'");
}
my %lease;
for my $kind (qw(held long done broken))
{
	my $length = $kind eq 'long' ? '8 s' : '1 h';
	(undef, $lease{$kind}) = $primary->claim('app', "'q', kinds => '{$kind}', worker => 'w', lease_for => '$length'");
}
$primary->ask('app', "SELECT jobq.complete('$job{done}', $lease{done}, '{\"ok\": 1}')");
$primary->ask('app', "SELECT jobq.fail('$job{broken}', $lease{broken}, 'broken')");
$primary->ask('app', "SELECT jobq.cancel('$job{stopped}')");
$primary->ask('postgres', 'CREATE ROLE looker LOGIN');
$primary->ask('app', "SELECT jobq.grant_access('looker', 'reader')");
$primary->wait_for_catchup($standby, 'replay');

# Looking

is(ask('SELECT pg_is_in_recovery()'), 't', 'the standby is one');
is($standby->jobq_processes, '0', 'no process of jobq runs in recovery');
is(ask("SELECT string_agg(kind || ' ' || state, ', ' ORDER BY kind) FROM jobq.jobs"),
	'broken failed, done completed, held running, later pending, long running, stopped cancelled, waiting pending',
	'jobq.jobs shows all jobs');
is(ask("SELECT kind || ' ' || state FROM jobq.job('$job{done}')"), 'done completed', 'so does jobq.job()');
is(ask("SELECT concat_ws(',', pending, scheduled, running, failed) FROM jobq.stats('q')"), '1,1,2,1', 'jobq.stats() counts');
is(ask("SELECT count(*) FROM jobq.stats()"), '2', 'of all queues too');
is(ask("SELECT string_agg(n, ',' ORDER BY n) FROM (SELECT 'queues' || count(*) AS n FROM jobq.queues UNION ALL
	SELECT 'running' || count(*) FROM jobq.running_jobs UNION ALL SELECT 'failed' || count(*) FROM jobq.failed_jobs UNION ALL
	SELECT 'workers' || count(*) FROM jobq.workers) AS s"), 'failed1,queues2,running2,workers1', 'the other views work');
like(ask('SELECT jobq.version()'), qr/library .*schema/, 'jobq.version() works');
is(ask("SELECT count(*) >= 10 FROM jobq.diagnose()"), 't', 'jobq.diagnose() works');
is(ask("SELECT string_agg(check_name || ': ' || detail, '; ') FROM jobq.diagnose() WHERE status = 'error'"), '',
	'and finds no error: nothing has to run here');
is(ask("SET ROLE looker; SELECT count(*) FROM jobq.jobs"), '7', 'a reader may look here as on the primary');

unlike($standby->log_since(0), qr/jobq (?:launcher|maintainer)|jobq:/, 'the log of the standby has no word of jobq');

# Writing

my @writers = (
	"jobq.enqueue('k')", "jobq.enqueue('k', unique_key => 'u')", "jobq.enqueue_many('k', '[{}]')", "jobq.enqueue_jobs('[{\"kind\": \"k\"}]')",
	"jobq.cancel('$job{waiting}')", "jobq.reschedule('$job{waiting}')", "jobq.claim()", "jobq.claim('q', 10)",
	"jobq.complete('$job{held}', $lease{held})", "jobq.complete_many(ARRAY['$job{held}']::uuid[], ARRAY[$lease{held}]::bigint[])",
	"jobq.fail('$job{held}', $lease{held})", "jobq.release('$job{held}', $lease{held})", "jobq.heartbeat('$job{held}', $lease{held})",
	"jobq.heartbeat_many(ARRAY['$job{held}']::uuid[], ARRAY[$lease{held}]::bigint[])", 'jobq.rescue_zombies()', "jobq.create_queue('new')",
	"jobq.alter_queue('q', max_attempts => 5)", "jobq.drop_queue('q', true)", "jobq.pause('q')", "jobq.resume('q')",
	"jobq.retry('$job{broken}')", 'jobq.retry_failed()', "jobq.delete('$job{waiting}')", "jobq.purge('q', 'completed', '0')",
	'jobq.resume_after_restore()', 'jobq.tick()', "jobq.grant_access('looker', 'worker')", "jobq.revoke_access('looker', 'reader')");
for my $call (@writers)
{
	my ($name) = $call =~ /^jobq\.(\w+)/;
	is($standby->refusal('app', "SELECT * FROM $call"), '25006', "$name is refused as read-only");
}
is($primary->refusal('app', "BEGIN READ ONLY; SELECT $_"), '25006', 'so is ' . s/\(.*//r . ' in a read-only transaction of the primary')
  for "jobq.enqueue('k')", "count(*) FROM jobq.claim()", "jobq.grant_access('looker', 'worker')";


# Restarting a standby starts nothing either.
$standby->restart;
is($standby->jobq_processes, '0', 'after a restart in recovery: no process of jobq');

# A crash of the primary under the standby changes nothing: the claims that were not flushed are gone on both.
my $load = $primary->load('app', clients => 2);
$primary->becomes('app', "SELECT count(*) > 50 FROM jobq.jobs WHERE kind = 'load' AND state = 'completed'", 't', 'the primary is busy');

# Promotion. The primary is stopped at once, with claims in flight; what it acknowledged and had sent is what counts.
my %before = map { split /\|/ } split /\n/, $primary->ask('app', "SELECT id, lease FROM jobq.claim('default', 5, 'w', '1 h')");
my $fresh = $primary->enqueue('app', 'handed', "queue => 'q'");
my ($handed, $handed_lease) = $primary->claim('app', "'q', kinds => '{handed}', lease_for => '1 h'");
JobqServer::stop_program($load);
# A claim alone does not wait to be written; what is sent from here on is.
$primary->ask('app', 'CHECKPOINT');
$primary->wait_for_catchup($standby, 'replay');
$primary->stop('immediate');
my $running = ask("SELECT string_agg(id::text, ',' ORDER BY id) FROM jobq.running_jobs");
# As if the worker had lost its server long before the promotion: its lease is over by the wall clock.
$standby->seconds_until('app', "SELECT lease_expires_at < clock_timestamp() FROM jobq.job('$job{long}')");
my $blow = ask('SELECT clock_timestamp()');
my $start = time;
$standby->promote;
$standby->is_served('app', 'after promotion the maintainer starts by itself');
note sprintf 'the maintainer ticks %.2f s after the order to promote', time - $start;
is(ask("SELECT state FROM jobq.job('$job{long}')"), 'running', 'a lease that ended during the failover does not cost the job at once');
is(ask("SELECT jobq.rescue_zombies()"), '0', 'nor when somebody asks');
is(ask("SELECT string_agg(id::text, ',' ORDER BY id) FROM jobq.running_jobs"), $running, 'nobody has lost a job');

is(ask("SELECT jobq.complete('$handed', $handed_lease)"), 'completed', 'a worker that was sent over goes on with its lease');
my $new = $standby->enqueue('app', 'new', "queue => 'q'");
my ($id, $lease) = $standby->claim('app', "'q', kinds => '{new}'");
is($id, $new, 'jobs are enqueued and claimed');
ask("SELECT jobq.complete('$id', $lease)");
{
	my $worse = 0;
	for my $old (keys %before)
	{
		ask("SELECT jobq.release('$old', $before{$old})");
		my %again = map { split /\|/ } split /\n/, ask("SELECT id, lease FROM jobq.claim('default', 10000, 'x', '1 h')");
		$worse++ if defined $again{$old} && $again{$old} <= $before{$old};
		is($standby->refusal('app', "SELECT jobq.complete('$old', $before{$old})"), 'JQ001', 'the old lease is refused') if defined $again{$old};
		last;
	}
	is($worse, 0, 'leases go on increasing');
}
$standby->becomes('app', "SELECT state FROM jobq.job('$job{long}')", 'failed', 'when its grace is over the lost job is rescued (its only attempt)');
cmp_ok(ask("SELECT extract(epoch FROM finished_at - '$blow') FROM jobq.job('$job{long}')"), '>=', 8, 'not before its lease length of 8 s');
$standby->log_is_clean;
$_->stop for $standby;
done_testing();
