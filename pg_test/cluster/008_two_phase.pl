# Prepared transactions are transactions like any other.
#
# An enqueue, a claim and a completion that are prepared are neither done nor undone until somebody decides, restarts and crashes in
# between included: nobody else gets the job, the maintainer does not touch what is locked, and afterwards all is as if the
# transaction had been a plain one.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use Test::More;

my $node = JobqServer->boot('main');
my $db = 'app';
$node->ask('postgres', "CREATE DATABASE $db");
$node->ask($db, 'CREATE EXTENSION jobq');
$node->is_served($db, 'the maintainer ticks');
sub ask { return $node->ask($db, @_); }
sub becomes { local $Test::Builder::Level = $Test::Builder::Level + 1; return $node->becomes($db, @_); }
sub prepare
{
	my ($name, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($code, $out, $err) = $node->psql($db, "BEGIN; $sql; PREPARE TRANSACTION '$name'");
	is($err, '', "$name is prepared");
	return $out;
}
my %between = ('nothing' => sub { }, 'a restart' => sub { $node->restart }, 'a crash' => sub { $node->kill9; $node->start_after_kill });

for my $what (sort keys %between)
{
	note "between PREPARE and the decision: $what";
	my %id;
	# Enqueue
	for my $end (qw(commit rollback))
	{
		$id{$end} = prepare("enqueue_$end", "SELECT jobq.enqueue('new_$end', unique_key => 'key_$end')");
	}
	# Claim and completion; the leases are short: they run out while the transactions are prepared.
	for my $verb (qw(claim complete fail))
	{
		for my $end (qw(commit rollback))
		{
			my $name = "${verb}_$end";
			$id{$name} = $node->enqueue($db, $name);
			if ($verb eq 'claim')
			{
				prepare($name, "SELECT count(*) FROM jobq.claim(kinds => '{$name}', worker => '2pc', lease_for => '1 h')");
				next;
			}
			my (undef, $lease) = $node->claim($db, "kinds => '{$name}', worker => '2pc', lease_for => '1 s'");
			prepare($name, $verb eq 'complete' ? "SELECT jobq.complete('$id{$name}', $lease)" : "SELECT jobq.fail('$id{$name}', $lease, 'no', retry => false)");
		}
	}
	# A queue that is dropped while a prepared transaction adds a job to it. The history refers to it, so the tombstone stays.
	ask("SELECT jobq.create_queue('leaving')");
	$id{late} = prepare('late', "SELECT jobq.enqueue('late', queue => 'leaving')");
	is(ask("SELECT jobq.drop_queue('leaving')"), '0', 'its queue is dropped meanwhile');

	$between{$what}->();
	$node->is_served($db, 'the maintainer ticks') if $what ne 'nothing';
	is(ask('SELECT count(*) FROM pg_prepared_xacts'), '9', 'all prepared transactions are there');
	# Past the leases and past the grace of the start.
	$node->seconds_until($db, "SELECT clock_timestamp() > max(lease_expires_at) + interval '1 s' AND clock_timestamp() > pg_postmaster_start_time() + interval '3 s'
		FROM jobq.running_jobs");
	is(ask("SELECT count(*) FROM jobq.jobs WHERE kind LIKE 'new%'"), '0', 'an enqueue is not seen before its commit');
	is(ask("SELECT count(*) FROM jobq.claim(batch => 100, kinds => '{claim_commit,claim_rollback}')"), '0', 'a claim that is prepared keeps the job from others');
	is(ask("SELECT string_agg(state || ' ' || crashes, ',') FROM jobq.jobs WHERE kind LIKE 'complete%' OR kind LIKE 'fail%'"),
		'running 0,running 0,running 0,running 0', 'nor does the maintainer take what a prepared transaction has ended');
	my $waits = $node->psql($db, "SET lock_timeout = '500ms'; SELECT jobq.enqueue('again', unique_key => 'key_commit')");
	is($waits, 3, 'an enqueue with the same unique key waits for the decision');

	ask("COMMIT PREPARED '$_'") for qw(enqueue_commit claim_commit complete_commit fail_commit late);
	ask("ROLLBACK PREPARED '$_'") for qw(enqueue_rollback claim_rollback complete_rollback fail_rollback);

	is(ask("SELECT state FROM jobq.job('$id{commit}')"), 'pending', 'enqueue, committed: there');
	is(ask("SELECT count(*) FROM jobq.job('$id{rollback}')"), '0', 'rolled back: never there');
	is(ask("SELECT count(*) FROM jobq.claim(kinds => '{new_commit}')"), '1', 'it can be claimed');
	is(ask("SELECT concat_ws(' ', state, worker, attempt) FROM jobq.job('$id{claim_commit}')"), 'running 2pc 1', 'claim, committed: running');
	is(ask("SELECT concat_ws(' ', state, coalesce(worker, '-'), attempt) FROM jobq.job('$id{claim_rollback}')"), 'pending - 0', 'rolled back: never claimed');
	is(ask("SELECT count(*) FROM jobq.claim(kinds => '{claim_rollback}')"), '1', 'others get it');
	is(ask("SELECT state FROM jobq.job('$id{complete_commit}')"), 'completed', 'complete, committed');
	is(ask("SELECT state FROM jobq.job('$id{fail_commit}')"), 'failed', 'fail, committed');
	for my $verb (qw(complete fail))
	{
		becomes("SELECT concat_ws(' ', state, crashes) FROM jobq.job('$id{$verb . '_rollback'}')", 'pending 1',
			"$verb, rolled back: the lease has run out, the job is rescued");
	}
	ok(defined $node->renew_maintainer($db), 'the duties run once more');
	becomes("SELECT state FROM jobq.job('$id{late}')", 'cancelled', 'the job that came late into a dropped queue is cancelled');
	is(ask("SELECT count(*) FROM jobq.jobs WHERE queue IS NULL"), '0', 'no job is without a queue');
	ask('TRUNCATE jobq._job, jobq._dead, jobq._history');
}

# CREATE EXTENSION in a prepared transaction: nobody is told at its commit, the maintainer comes all the same.
$node->ask('postgres', "BEGIN; CREATE EXTENSION jobq; PREPARE TRANSACTION 'install'");
$node->ask('postgres', "COMMIT PREPARED 'install'");
my $took = $node->seconds_until_served('postgres', 0, 75);
ok(defined $took, 'an extension installed by COMMIT PREPARED is found within a minute');
note sprintf 'after %.1f s', $took if defined $took;
$node->log_is_clean;
$node->stop;
done_testing();
