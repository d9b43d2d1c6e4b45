# A dump carries everything over, and what is restored from it waits.
#
# Queues with their options (those of "default" too), jobs in every state, dead letters, history, sequences and rights are the same
# after pg_dump | psql, after a custom and a parallel directory dump, and after schema and data dumped one by one. A restored copy,
# like one made with CREATE DATABASE ... TEMPLATE, runs no duty before jobq.resume_after_restore() - not while it is being restored
# either - and diagnose() says so; afterwards it does. The original is not disturbed.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use JobqServer;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = JobqServer->boot('main');
sub ask { return $node->ask(@_); }
my $folder = $node->basedir;

ask('postgres', 'CREATE ROLE worker LOGIN; CREATE ROLE producer LOGIN; CREATE ROLE watcher LOGIN; CREATE ROLE boss LOGIN');
ask('postgres', 'CREATE DATABASE source');
ask('source', 'CREATE EXTENSION jobq');
$node->is_served('source', 'the original is served');

# Contents

ask('source', "SELECT jobq.alter_queue('default', max_attempts => 7, default_priority => 3)");
ask('source', "SELECT jobq.create_queue('mail', 1, 5, '10 min', '2 min', '{\"kind\": \"linear\", \"base\": \"10s\"}', 4, '30 days', true, 1000)");
ask('source', "SELECT jobq.create_queue('ephemeral', keep_completed => false)");
ask('source', "SELECT jobq.create_queue('paused')");
ask('source', "SELECT jobq.pause('paused')");
ask('source', "SELECT jobq.grant_access('worker', 'worker'), jobq.grant_access('producer', 'producer'), jobq.grant_access('watcher', 'reader'), jobq.grant_access('boss', 'admin')");
ask('source', "SELECT jobq.schedule('seldom', '0 0 29 2 *', 'k', '{\"n\": 1.10}', 'mail', 'Europe/Berlin', jitter => '90 s', headers => '{\"a\": 1}')");
my %job;
for my $kind (qw(waiting later keyed held expired done broken stopped))
{
	my $more = { later => ", delay => '3 h'", keyed => ", unique_key => 'k1'", expired => ', max_attempts => 2' }->{$kind} // '';
	$job{$kind} = $node->enqueue('source', $kind,
		"payload => '{\"text\": \"\\\\ \\\" Zoë\\t\", \"big\": 123456789012345678901234567890.10}', queue => 'mail', headers => '{\"trace\": \"$kind\"}'$more");
}
my %lease;
(undef, $lease{$_}) = $node->claim('source', "'mail', kinds => '{$_}', worker => 'w-$_', lease_for => '1 h'") for qw(held done broken);
ask('source', "SELECT jobq.complete('$job{done}', $lease{done}, '{\"sum\": 1.10}')");
ask('source', "SELECT jobq.fail('$job{broken}', $lease{broken}, 'it broke', retry => false)");
ask('source', "SELECT jobq.cancel('$job{stopped}')");
ask('source', "SELECT jobq.heartbeat('$job{held}', $lease{held}, progress => 40, note => 'on the way')");
ask('source', "SELECT jobq.enqueue_many('bulk', (SELECT jsonb_agg(jsonb_build_object('n', n)) FROM generate_series(1, 300) AS n))");
ask('source', "WITH c AS MATERIALIZED (SELECT array_agg(id) AS ids, array_agg(lease) AS leases FROM jobq.claim(batch => 100, kinds => '{bulk}'))
	SELECT count(*) FROM c, jobq.complete_many(c.ids, c.leases)");

# A job whose worker is lost by now, and history past its retention: the first things a duty would lay hands on. The original must not
# do it either before the dump: it rests.
$node->set_for_all('jobq.enabled', 'off');
$node->becomes('postgres', sub { $node->maintainer('source') }, '', 'the duties of the original rest for the dump');
$node->claim('source', "'mail', kinds => '{expired}', worker => 'gone', lease_for => '1 s'");
$node->age_lease('source', $job{expired}, 600);
ask('source', "UPDATE jobq._history SET finished_at = finished_at - interval '25 days', slot = (slot + 7) % 32
	WHERE id IN (SELECT id FROM jobq._history WHERE kind = 'bulk' ORDER BY id LIMIT 10)");
ask('source', "UPDATE jobq._history SET finished_at = finished_at - interval '90 days', slot = (slot + 3) % 32
	WHERE id IN (SELECT id FROM jobq._history WHERE kind = 'bulk' ORDER BY id DESC LIMIT 10)");
my $contents = $node->contents('source');
is(ask('source', "SELECT string_agg(state || n, ' ' ORDER BY state) FROM (SELECT state, count(*) AS n FROM jobq.jobs GROUP BY state) AS s"),
	'cancelled1 completed81 failed1 pending203 running2', 'jobs in every state');

my @dump = ('pg_dump', '-d', $node->connstr('source'));
$node->command_ok([ @dump, '-f', "$folder/plain.sql" ], 'plain dump');
$node->command_ok([ @dump, '-Fc', '-f', "$folder/custom" ], 'custom dump');
$node->command_ok([ @dump, '-Fd', '-j', '4', '-f', "$folder/directory" ], 'parallel directory dump');
$node->command_ok([ @dump, '--schema-only', '-f', "$folder/schema.sql" ], 'schema only');
$node->command_ok([ @dump, '--data-only', '-f', "$folder/data.sql" ], 'data only');
# The user of the dump needs not be a superuser.
ask('source', "GRANT pg_read_all_data TO boss");
$node->command_ok([ 'pg_dump', '-d', $node->connstr('source') . ' user=boss', '-Fc', '-f', "$folder/by_boss" ],
	'a dump by an administrator who is no superuser');
$node->set_for_all('jobq.enabled', undef);
$node->is_served('source', 'the original works again');

# While it is being restored, held up before the data is complete: with the whole dump, and with the data alone into a database
# where somebody has run CREATE EXTENSION.
for my $how ([ 'plain', 0 ], [ 'data', 1 ])
{
	my ($name, $made) = @$how;
	my $text = slurp_file("$folder/$name.sql") =~ s/^\\(un)?restrict .*$//mgr;
	my @chunks = split /(?=^SELECT pg_catalog\.setval\('jobq\._origin)/m, $text, 2;
	is(scalar @chunks, 2, "$name: the dump sets the sequence that tells a copy");
	ask('postgres', 'CREATE DATABASE halfway');
	ask('halfway', 'CREATE EXTENSION jobq') if $made;
	my $feed = sub {
		my ($part, $text) = @_;
		append_to_file("$folder/${name}_$part", $text);
		$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('halfway'), '-f', "$folder/${name}_$part" ],
			"$name: restore of $part");
	};
	$feed->('most', $chunks[0]);
	# By now a maintainer is there, if one comes, and has done all its duties once.
	my $came = $node->seconds_until('postgres',
		"SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = 'halfway')", 't', 10);
	my $mark = ask('postgres', "SELECT xact_commit FROM pg_stat_database WHERE datname = 'halfway'");
	$node->seconds_until('postgres', "SELECT xact_commit > $mark + 15 FROM pg_stat_database WHERE datname = 'halfway'", 't', 10) if defined $came;
	is(ask('halfway', "SELECT state, crashes FROM jobq._job WHERE id = '$job{expired}'"), 'r|0', "$name: a restore is under way, no job is rescued");
	is(ask('halfway', 'SELECT count(*) FROM jobq._history'), '102', "$name: nor is history removed");
	$feed->('rest', $chunks[1]);
	$node->has_contents('halfway', $contents, "$name: when it is complete nothing is missing") unless $made;
	like($node->diagnosis('halfway', 'restored_copy'), qr/^warn/, "$name: and it waits");
	ask('postgres', 'DROP DATABASE halfway');
}

# Restored copies

my %restore = (
	plain => sub { $node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($_[0]), '-f', "$folder/plain.sql" ], 'psql') },
	custom => sub { $node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($_[0]), "$folder/custom" ], 'pg_restore') },
	single => sub { $node->command_ok([ 'pg_restore', '--exit-on-error', '-1', '-d', $node->connstr($_[0]), "$folder/custom" ], 'pg_restore in one transaction') },
	directory => sub { $node->command_ok([ 'pg_restore', '--exit-on-error', '-j', '4', '-d', $node->connstr($_[0]), "$folder/directory" ], 'parallel pg_restore') },
	parts => sub {
		for my $part (qw(schema data))
		{
			$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($_[0]), '-f', "$folder/$part.sql" ], "psql, $part");
		}
	},
	by_boss => sub { $node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($_[0]), "$folder/by_boss" ], 'pg_restore') },
);
for my $how (sort keys %restore)
{
	my $db = "r_$how";
	ask('postgres', "CREATE DATABASE $db");
	$restore{$how}->($db);
	$node->has_contents($db, $contents, "$how: queues, jobs, history, sequences and rights are the same");
}
ask('postgres', "CREATE DATABASE r_template TEMPLATE source");
# The original has rescued its lost job and forgotten its old history by now: its copy is compared with it, not with the dump.
is(ask('r_template', 'SELECT count(*) FROM jobq.jobs'), ask('source', 'SELECT count(*) FROM jobq.jobs'), 'CREATE DATABASE ... TEMPLATE');
ask('r_template', "UPDATE jobq._job SET state = 'r', worker = 'gone', lease = 1, lease_ms = 1000, attempt = 1, crashes = 0, claimed_at = now() - interval '1 h',
	seen_at = now() - interval '1 h', lease_expires_at = now() - interval '1 h' WHERE id = '$job{expired}'");

my @copies = ((map { "r_$_" } sort keys %restore), 'r_template');
for my $db (@copies)
{
	# The maintainer is there and ticks, so it would have done all its duties by now.
	$node->is_served($db, "$db: a maintainer is there");
	is(ask($db, "SELECT state, crashes FROM jobq._job WHERE id = '$job{expired}'"), 'r|0', 'and has not touched the lost job');
	like($node->diagnosis($db, 'restored_copy'), qr/^warn\|.*\|.*resume_after_restore/, 'diagnose() says that it waits, and for what');
	is(ask($db, 'SELECT jobq.tick()'), '0', 'tick() does nothing either');
	$node->has_contents($db, $contents, 'all is still as in the dump') if $db ne 'r_template';
}

# Work by clients goes on in a copy; it is only the background that waits.
{
	my $db = 'r_custom';
	is(ask($db, "SELECT jobq.complete('$job{held}', $lease{held})"), 'completed', 'a copy takes what is asked of it');
	is(ask($db, "SELECT jobq.create_queue('fresh')"), 't', 'a new queue does not collide with a restored one');
	my $id = $node->enqueue($db, 'k', "queue => 'fresh'");
	is(ask($db, "SELECT queue FROM jobq.job('$id')"), 'fresh', 'nor do its jobs');
	is(ask($db, "SELECT count(*) = count(DISTINCT id) AND max(id) = (SELECT last_value FROM jobq._queue_id_seq) FROM jobq._queue"), 't',
		'queue ids are unique, and the sequence has the last one');
	is(ask($db, "SELECT jobq.enqueue('keyed', queue => 'mail', unique_key => 'k1')"), $job{keyed}, 'unique keys hold');
	is($node->refusal($db, "SET ROLE producer; SELECT jobq.enqueue('k')"), '', 'a producer may produce');
	is($node->refusal($db, "SET ROLE producer; SELECT jobq.claim()"), '42501', 'and nothing else');
	is($node->refusal($db, "SET ROLE watcher; SELECT count(*) FROM jobq.jobs"), '', 'a reader may look');
	is($node->refusal($db, "SET ROLE worker; SELECT count(*) FROM jobq.claim()"), '', 'a worker may work');
}

for my $db (@copies)
{
	is(ask($db, 'SELECT jobq.resume_after_restore()'), 't', "$db: resume_after_restore()");
	is(ask($db, 'SELECT jobq.resume_after_restore()'), 'f', 'a second time: nothing to do');
	$node->becomes($db, "SELECT concat_ws(' ', state, crashes) FROM jobq.job('$job{expired}')", 'pending 1', 'the lost job is rescued');
	like($node->diagnosis($db, 'restored_copy'), qr/^ok/, 'diagnose() is content');
}
$node->becomes('r_plain', 'SELECT count(*) FROM jobq._history WHERE finished_at < now() - interval \'40 days\'', '0', 'history past its retention goes');

# The original, meanwhile
like($node->diagnosis('source', 'restored_copy'), qr/^ok/, 'the original never waited');
$node->becomes('source', "SELECT concat_ws(' ', state, crashes) FROM jobq.job('$job{expired}')", 'pending 1', 'and has rescued its lost job');
is(ask('source', "SELECT jobq.complete('$job{held}', $lease{held})"), 'completed', 'its workers go on');

# A dump of the copy is restored as well: nothing piles up.
$node->command_ok([ 'pg_dump', '-d', $node->connstr('r_plain'), '-Fc', '-f', "$folder/second" ], 'dump of a copy');
ask('postgres', 'CREATE DATABASE r_second');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('r_second'), "$folder/second" ], 'restored again');
$node->has_contents('r_second', $node->contents('r_plain'), 'a copy of the copy is the same');
like($node->diagnosis('r_second', 'restored_copy'), qr/^warn/, 'and waits again');

$node->log_is_clean;
# A maintainer that arrives in the middle of a restore may say that it has undone its work.
is($node->count_in_log(qr/jobq maintainer: (?!.*being restored)/), 0, 'no duty has failed') or diag join "\n", grep { /jobq maintainer: / } split /\n/, $node->log_since(0);
$node->stop;
done_testing();
