# The maintainer does its duties with no client at all.
#
# Jobs of lost workers come back, with the attempt used and the loss on record; they fail when no attempt is left or too many workers
# were lost with them, and end as cancelled when that was asked for. An attempt past its deadline ends although its worker still
# sends heartbeats. Finished jobs are forgotten when their retention is over: a partition by TRUNCATE, a shorter retention of a
# queue in batches. A dropped queue leaves a tombstone until no transaction can add a job to it any more; a job that is added to it
# late is cancelled and never lies around without a queue.

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

# Lost workers. All these are claimed by sessions that are gone, with leases of a second.

ask("SELECT jobq.create_queue('$_->[0]', max_attempts => $_->[1], max_crashes => $_->[2])")
  for [ 'again', 3, 3 ], [ 'last', 1, 3 ], [ 'poison', 10, 1 ], [ 'stop', 3, 3 ];
my %lost;
for my $queue (qw(again last poison stop))
{
	$node->enqueue($db, 'k', "queue => '$queue'");
	my ($id, $lease) = $node->claim($db, "'$queue', worker => 'gone-$queue', lease_for => '1 s'");
	$lost{$queue} = { id => $id, lease => $lease };
}
is(ask("SELECT jobq.cancel('$lost{stop}{id}')"), 'running', 'one of them is asked to stop');
sub fate { return "SELECT concat_ws(' ', state, attempt, crashes, coalesce(worker, '-')) FROM jobq.job('$lost{$_[0]}{id}')"; }
becomes(fate('again'), 'pending 1 1 -', 'a lost job is pending again: the attempt stays used, one crash');
becomes(fate('last'), 'failed 1 1 gone-last', 'no attempt left: failed');
becomes(fate('poison'), 'failed 1 1 gone-poison', 'max_crashes reached: failed');
becomes(fate('stop'), 'cancelled 1 1 gone-stop', 'cancellation was asked for: cancelled');
like(ask("SELECT last_error FROM jobq.job('$lost{again}{id}')"), qr/gone-again.*last seen/, 'the error names the worker and when it was last seen');
like(ask("SELECT last_error FROM jobq.job('$lost{poison}{id}')"), qr/poison/, 'and says poison');
is($node->refusal($db, "SELECT jobq.complete('$lost{again}{id}', $lost{again}{lease})"), 'JQ001', 'the lost worker may not complete it any more');
{
	my ($id, $lease) = $node->claim($db, "'again'");
	is($id, $lost{again}{id}, 'somebody else claims it');
	cmp_ok($lease, '>', $lost{again}{lease}, 'with a larger lease');
}

# A worker that lives, with heartbeats, keeps its job over many ticks.
{
	$node->enqueue($db, 'alive', "queue => 'again'");
	my ($id, $lease) = $node->claim($db, "'again', kinds => '{alive}', lease_for => '2 s'");
	my $end = ask("SELECT clock_timestamp() + interval '5 s'");
	my $beats = 0;
	while (ask("SELECT clock_timestamp() < '$end'") eq 't')
	{
		last if ask("SELECT jobq.heartbeat('$id', $lease)") ne 't';
		$beats++;
	}
	is(ask("SELECT concat_ws(' ', state, crashes) FROM jobq.job('$id')"), 'running 0', "with heartbeats it is kept ($beats of them)");
}

# More than one pass takes.
ask("SELECT jobq.create_queue('many')");
ask("SELECT count(*) FROM jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 2500)), 'many')");
my $locked = ask("SELECT id FROM jobq.claim('many', 2500, 'herd', '1 s') ORDER BY id LIMIT 1");
my $holder = $node->background_psql($db);
$holder->query_safe("BEGIN; SELECT 1 FROM jobq._job WHERE id = '$locked' FOR UPDATE");
becomes("SELECT string_agg(state || n, ',' ORDER BY state) FROM (SELECT state, count(*) AS n FROM jobq.jobs WHERE queue = 'many' GROUP BY state) AS s",
	'pending2499,running1', 'a herd of 2500 comes back; the one that is locked by somebody does not hold up the others');
$holder->query_safe('COMMIT');
becomes("SELECT state FROM jobq.job('$locked')", 'pending', 'and is rescued as soon as it is free');
$holder->quit;

# Timeouts.

ask("SELECT jobq.create_queue('slow', timeout => '1 s', backoff => '{\"kind\": \"constant\", \"base\": \"1h\"}')");
my $first = $node->enqueue($db, 'k', "queue => 'slow'");
my $final = $node->enqueue($db, 'k', "queue => 'slow', max_attempts => 1");
ask("SELECT count(*) FROM jobq.claim('slow', 2, 'sleeper', '1 h')");
becomes("SELECT concat_ws(' ', state, attempt, crashes, last_error) FROM jobq.job('$first')", 'pending 1 0 timed out',
	'past its deadline an attempt ends as failed with "timed out", although its lease is good; no crash');
is(ask("SELECT run_at > clock_timestamp() + interval '50 min' FROM jobq.job('$first')"), 't', 'and is retried after the backoff');
becomes("SELECT concat_ws(' ', state, last_error) FROM jobq.job('$final')", 'failed timed out', 'the last attempt: failed');

# Retention. Time is moved by a superuser: rows go to the day, and so to the slot, of a past moment. The duties rest meanwhile; a
# maintainer that starts runs all of them at once.

$node->set_for_all('jobq.enabled', 'off');
$node->becomes('postgres', sub { $node->maintainer($db) }, '', 'the duties rest');
my $width = ask("SELECT ceil(max(retention_seconds) / 86400 / 30)::int FROM jobq.queues");
sub slot_of { return "((extract(epoch FROM $_[0] - '2000-01-01 00:00+00'::timestamptz)::bigint / 86400 / $width) % 32)::smallint"; }
sub finish
{
	my ($queue, $ago, $copies, $slot_ago) = @_;
	my $id = $node->enqueue($db, 'old', "queue => '$queue'");
	my ($claimed, $lease) = $node->claim($db, "'$queue', kinds => '{old}'");
	ask("SELECT jobq.complete('$claimed', $lease)");
	my $at = "(now() - interval '$ago')";
	my $slot = slot_of("(now() - interval '" . ($slot_ago // $ago) . "')");
	ask("UPDATE jobq._history SET finished_at = $at, slot = $slot WHERE id = '$claimed'");
	ask("INSERT INTO jobq._history SELECT r.* FROM jobq._history AS h, generate_series(1, $copies) AS n,
	     LATERAL jsonb_populate_record(h, jsonb_build_object('id', left(h.id::text, 15) || substr(gen_random_uuid()::text, 16), 'n', n)) AS r WHERE h.id = '$claimed'")
	  if $copies;
	return $claimed;
}
sub partition_of { return ask("SELECT tableoid::regclass FROM jobq._history WHERE id = '$_[0]'"); }
sub file_of { return ask("SELECT pg_relation_filenode('$_[0]')"); }

ask("SELECT jobq.create_queue('kept')");
ask("SELECT jobq.create_queue('brief', retention => '1 hour')");
my $fresh = finish('kept', '1 h');
my $older = finish('kept', '6 days');
my $over = finish('kept', '15 days', 3000);
my $mixed = finish('kept', '20 days');
my $mate = finish('kept', '1 day', 0, '20 days');
my $brief = finish('brief', '2 hours', 25_000);
my $brief_fresh = finish('brief', '10 min');
my ($emptied, $stays) = (partition_of($over), partition_of($mixed));
isnt($emptied, $stays, 'the rows lie in partitions of different days');
my $file = file_of($emptied);
is(ask("SELECT string_agg(j.id::text, ',' ORDER BY j.id) FROM jobq.jobs AS j WHERE j.id IN ('$over', '$mixed', '$brief')"), '',
	'what is past its retention is not shown, even before the maintainer has come round');
is(ask("SELECT count(*) FROM jobq.jobs AS j WHERE j.id IN ('$fresh', '$older', '$brief_fresh')"), '3', 'the rest is shown');

$node->set_for_all('jobq.enabled', undef);
becomes("SELECT count(*) FROM $emptied", '0', 'a partition whose newest row is past the longest retention is empty');
isnt(file_of($emptied), $file, 'by TRUNCATE');
becomes("SELECT count(*) FROM jobq._history AS h JOIN jobq._queue AS q ON q.id = h.queue_id WHERE q.name = 'brief'", '1',
	'25 000 jobs past the shorter retention of their queue are deleted');
is(ask("SELECT count(*) FROM jobq._history WHERE id IN ('$fresh', '$older', '$mate', '$brief_fresh')"), '4', 'nothing else is');
becomes("SELECT count(*) FROM jobq._history WHERE id = '$mixed'", '0', 'an old job beside a newer one of its slot goes one by one');
is($node->refusal($db, "SELECT jobq.delete('$fresh')"), '', 'and the table works as before');

# A longer retention makes wider slots; what is there stays until it is over.
ask("SELECT jobq.create_queue('years', retention => '400 days')");
ok(defined $node->renew_maintainer($db), 'with another width of the slots');
is(ask("SELECT count(*) FROM jobq._history WHERE id IN ('$older', '$mate', '$brief_fresh')"), '3', 'no job is lost by it');

# Tombstones.

sub stones { return ask("SELECT count(*) FROM jobq._queue WHERE dropped_at IS NOT NULL"); }
ask("SELECT jobq.create_queue('$_')") for qw(leaving slowly unused);
my $client = $node->background_psql($db);
$client->query_safe('BEGIN');
my $late = $client->query_safe("SELECT jobq.enqueue('late', queue => 'leaving')");
is(ask("SELECT jobq.drop_queue('leaving')"), '0', 'a queue is dropped while a transaction adds a job to it');
is($node->refusal($db, "SELECT jobq.enqueue('k', queue => 'leaving')"), '42704', 'nobody can add another one');
is(ask("SELECT jobq.create_queue('leaving')"), 't', 'the name is free at once');
ok(defined $node->renew_maintainer($db), 'the duties run while it is open');
cmp_ok(stones(), '>=', 1, 'the tombstone stays');
$client->query_safe('COMMIT');
ok(defined $node->renew_maintainer($db), 'and again when it has committed');
becomes("SELECT concat_ws(' ', state, queue) FROM jobq.job('$late')", 'cancelled leaving', 'the late arrival is cancelled');
like(ask("SELECT last_error FROM jobq.job('$late')"), qr/dropped/, 'and says why');
is(ask("SELECT count(*) FROM jobq.claim('leaving')"), '0', 'the new queue of that name does not get it');

# A drop that took minutes to commit: moved to the past before its commit. An enqueue that began in between is late as well.
my $dropper = $node->background_psql($db);
$dropper->query_safe('BEGIN');
$dropper->query_safe("SELECT jobq.drop_queue('slowly')");
$dropper->query_safe("UPDATE jobq._queue SET dropped_at = dropped_at - interval '3 min' WHERE name = 'slowly' AND dropped_at IS NOT NULL");
$client->query_safe('BEGIN');
my $later = $client->query("SELECT jobq.enqueue('late', queue => 'slowly')");
$dropper->query_safe('COMMIT');
ok(defined $node->renew_maintainer($db), 'the duties run');
$client->query_safe('COMMIT');
ok(defined $node->renew_maintainer($db), 'and again');
becomes("SELECT concat_ws(' ', state, coalesce(queue, 'without a queue')) FROM jobq.job('$later')", 'cancelled slowly',
	'a late arrival in a queue whose drop was long in committing is cancelled, not orphaned');
$_->quit for $client, $dropper;

# One pass notes the tombstone, a later one finds that all who were there then have left.
ask("SELECT jobq.drop_queue('unused')");
ok(defined $node->renew_maintainer($db), 'the duties run') for 1 .. 2;
becomes("SELECT count(*) FROM jobq._queue WHERE name = 'unused'", '0', 'once nothing can come any more the tombstone goes');
is(ask("SELECT count(*) FROM jobq.jobs WHERE queue IS NULL"), '0', 'no job without a queue');

$node->log_is_clean;
is($node->count_in_log(qr/jobq maintainer: /), 0, 'no duty has failed') or diag join "\n", grep { /jobq maintainer: / } split /\n/, $node->log_since(0);
$node->stop;
done_testing();
