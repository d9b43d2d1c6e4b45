package JobqServer;

# A throw-away server with jobq in it, and the questions the tests in this folder ask such a server.
#
# scripts/test runs these files. One of them by hand, as a user who is not root: pg_config, prove and the programs of the server
# under test in PATH, PERL5LIB naming Postgres's own Perl test modules, PG_REGRESS naming pg_regress; then `prove -v 001_background.pl`
# in a folder that may be written to.
#
# Nothing here sleeps for a fixed time and then hopes: `becomes` polls a condition until it holds or a generous deadline is over,
# and says how long it took. Deadlines are for a busy machine; what was measured is printed beside the promise.

use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils qw(append_to_file slurp_file);
use Test::More;
use Time::HiRes qw(time sleep);
our @ISA = ('PostgreSQL::Test::Cluster');

# Seconds after which a condition that should hold soon is taken to be broken.
our $PATIENCE = $ENV{JOBQ_PATIENCE} || 30;

# Lines that no test may leave in a server's log.
my $DISASTER = qr/PANIC|panicked|TRAP:|stuck spinlock|\bXX\d{3}\b|signal (4|6|7|8|11)\b|could not (load|find function)/;

# Makes and starts a server. conf: lines for postgresql.conf, after the usual ones; preload => 0: without jobq in
# shared_preload_libraries; init: options of PostgreSQL::Test::Cluster's init; new: of its constructor; start => 0: leave it down.
sub boot
{
	my ($class, $name, %options) = @_;
	my $self = $class->new($name, %{ $options{new} // {} });
	$self->init(%{ $options{init} // {} });
	$self->configure($options{conf} // '', %options);
	$self->start unless defined $options{start} && !$options{start};
	return $self;
}

sub configure
{
	my ($self, $conf, %options) = @_;
	my $preload = $options{preload} // 1;
	$self->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = '@{[ $preload ? 'jobq' : '' ]}'
restart_after_crash = on
log_statement = none
log_replication_commands = off
log_checkpoints = off
log_line_prefix = '%m [%p] %b %e '
wal_level = replica
max_wal_senders = 5
max_prepared_transactions = 10
max_connections = 50
max_worker_processes = 16
@{[ $preload ? "jobq.tick_interval = '200ms'" : '' ]}
$conf
CONF
	return;
}

# Changes a setting of the whole server by reload; undef: back to what the configuration file says.
sub set_for_all
{
	my ($self, $name, $value) = @_;
	$self->safe_psql('postgres', defined $value ? "ALTER SYSTEM SET $name = '$value'" : "ALTER SYSTEM RESET $name");
	$self->reload;
	return;
}

# One value, or rows separated by newlines.
sub ask
{
	my ($self, $db, $sql) = @_;
	return $self->safe_psql($db, $sql);
}

# The SQLSTATE with which a statement is refused; '' if it is not.
sub refusal
{
	my ($self, $db, $sql) = @_;
	my ($code, $out, $err) = $self->psql($db, "\\set VERBOSITY sqlstate\n$sql");
	return $err =~ /(?:ERROR|FATAL):\s+(\w{5})/ ? $1 : $code ? "psql: $err" : '';
}

# Polls until the query (or the sub) answers `expected`; returns the seconds it took, or undef and a diagnosis of what it said last.
# Errors count as "not yet": the server may be restarting.
sub seconds_until
{
	my ($self, $db, $sql, $expected, $deadline) = @_;
	$expected //= 't';
	$deadline //= $PATIENCE;
	my $start = time;
	my $said;
	while (1)
	{
		my ($code, $out, $err);
		if (ref $sql) { $out = $sql->(); $code = 0; }
		# A psql that is turned away while the server starts may be gone before it is given its query: IPC::Run dies of that.
		else { eval { ($code, $out, $err) = $self->psql($db, $sql); 1 } or ($code, $err) = (2, $@); }
		$said = $code ? "psql exit $code: $err" : $out // '';
		my $matched = ref $expected eq 'Regexp' ? $said =~ $expected : $said eq $expected;
		return time - $start if !$code && $matched;
		last if time - $start > $deadline;
		sleep 0.1;
	}
	diag sprintf "after %.1f s the answer was still %s instead of %s\nto: %s", time - $start, $said, $expected, $sql;
	return;
}

# The same as a test.
sub becomes
{
	my ($self, $db, $sql, $expected, $name, $deadline) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $took = $self->seconds_until($db, $sql, $expected, $deadline);
	ok(defined $took, $name);
	note sprintf '%s: %.2f s', $name, $took if defined $took;
	return $took;
}

# Background processes

# Process ids, one a line; '' if there is none.
sub maintainer
{
	my ($self, $db) = @_;
	return $self->ask('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = '$db'");
}

sub launcher
{
	my ($self) = @_;
	return $self->ask('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobq launcher'");
}

sub jobq_processes
{
	my ($self) = @_;
	return $self->ask('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'jobq%'");
}

# Seconds until a maintainer with another pid than `old` has ticked in the database; undef if none has.
sub seconds_until_served
{
	my ($self, $db, $old, $deadline) = @_;
	$old ||= 0;
	return $self->seconds_until(
		$db,
		"SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'
		                AND datname = current_database() AND pid <> $old)
		        AND EXISTS (SELECT 1 FROM jobq.diagnose() WHERE check_name = 'background_worker' AND status = 'ok')",
		't',
		$deadline);
}

sub is_served
{
	my ($self, $db, $name, $old) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $took = $self->seconds_until_served($db, $old);
	ok(defined $took, $name);
	note sprintf '%s: %.2f s', $name, $took if defined $took;
	return $took;
}

# A new maintainer runs all duties at once: for duties that come round once a minute only.
sub renew_maintainer
{
	my ($self, $db) = @_;
	my $old = $self->maintainer($db);
	$self->ask('postgres', "SELECT pg_terminate_backend($old)") if $old;
	return $self->seconds_until_served($db, $old);
}

# What diagnose() says of one check: "status|detail|hint".
sub diagnosis
{
	my ($self, $db, $check) = @_;
	return $self->ask($db, "SELECT status, detail, coalesce(hint, '') FROM jobq.diagnose() WHERE check_name = '$check'");
}

# Jobs

sub enqueue
{
	my ($self, $db, $kind, $arguments) = @_;
	return $self->ask($db, "SELECT jobq.enqueue('$kind'" . ($arguments ? ", $arguments" : '') . ')');
}

# Claims one job: (id, lease), or ().
sub claim
{
	my ($self, $db, $arguments) = @_;
	return split /\|/, $self->ask($db, 'SELECT id, lease FROM jobq.claim(' . ($arguments // '') . ')');
}

sub state
{
	my ($self, $db, $id) = @_;
	return $self->ask($db, "SELECT state FROM jobq.job('$id')");
}

# The lease of a running job and its last sign of life, moved back as if `seconds` had passed. Superuser's hands: no function does it.
sub age_lease
{
	my ($self, $db, $id, $seconds) = @_;
	$self->ask($db, "UPDATE jobq._job SET claimed_at = claimed_at - interval '$seconds s', seen_at = seen_at - interval '$seconds s',
	                 lease_expires_at = lease_expires_at - interval '$seconds s' WHERE id = '$id'");
	return;
}

# What a dump must carry over, as text that can be compared: options, jobs, counts, rights.
sub contents
{
	my ($self, $db) = @_;
	return $self->ask($db, <<'SQL');
SELECT 'queue', to_jsonb(q) FROM jobq._queue AS q ORDER BY id;
SELECT 'schedule', to_jsonb(s) FROM jobq._schedule AS s ORDER BY id;
SELECT 'job', to_jsonb(j) FROM jobq._job AS j ORDER BY id;
SELECT 'dead', to_jsonb(d) FROM jobq._dead AS d ORDER BY id;
SELECT 'history', to_jsonb(h) FROM jobq._history AS h ORDER BY id;
SELECT 'counts', state, count(*) FROM jobq.jobs GROUP BY state ORDER BY state;
SELECT 'next queue', last_value, is_called FROM jobq._queue_id_seq;
SELECT 'right', p.proname, a.grantee::regrole, a.privilege_type
FROM pg_proc AS p, aclexplode(p.proacl) AS a WHERE p.pronamespace = 'jobq'::regnamespace ORDER BY 2, 3, 4;
SELECT 'right', c.relname, a.grantee::regrole, a.privilege_type
FROM pg_class AS c, aclexplode(c.relacl) AS a WHERE c.relnamespace = 'jobq'::regnamespace ORDER BY 2, 3, 4;
SELECT 'right', n.nspname, a.grantee::regrole, a.privilege_type
FROM pg_namespace AS n, aclexplode(n.nspacl) AS a WHERE n.nspname = 'jobq' ORDER BY 2, 3, 4;
SQL
}

# A test: the contents are as another database's were. Only the first differences are shown.
sub has_contents
{
	my ($self, $db, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (%seen, @differ);
	$seen{$_}++ for split /\n/, $expected;
	$seen{$_}-- for split /\n/, $self->contents($db);
	@differ = map { ($seen{$_} < 0 ? 'too much: ' : 'missing: ') . $_ } grep { $seen{$_} } sort keys %seen;
	ok(!@differ, $name) or diag join "\n", map { substr $_, 0, 500 } @differ[ 0 .. ($#differ > 5 ? 5 : $#differ) ];
	return;
}

# The server's log

sub log_end
{
	my ($self) = @_;
	return -s $self->logfile;
}

sub log_since
{
	my ($self, $mark) = @_;
	return slurp_file($self->logfile, $mark // 0);
}

sub count_in_log
{
	my ($self, $pattern, $mark) = @_;
	my $found = () = $self->log_since($mark) =~ /$pattern/g;
	return $found;
}

# A test: nothing in the log that a healthy server never says. A SIGKILL that the test sent itself is no disaster.
sub log_is_clean
{
	my ($self, $name, $mark) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @bad = grep { /$DISASTER/ } split /\n/, $self->log_since($mark);
	ok(!@bad, $name // 'no panic, crash or internal error in the log') or diag join "\n", @bad[ 0 .. ($#bad > 9 ? 9 : $#bad) ];
	return;
}

# Starts after kill9: until the old server's children have noticed and left, a new one refuses to start.
sub start_after_kill
{
	my ($self) = @_;
	my $deadline = time + $PATIENCE;
	until ($self->start(fail_ok => 1))
	{
		# A stale pid file makes the base class believe that it runs.
		$self->{_pid} = undef;
		die 'the server does not start after a kill' if time > $deadline;
		sleep 0.1;
	}
	return;
}

# Stops the server with pg_ctl: the seconds it took, or undef. A server that does not stop is then stopped at once.
sub seconds_to_stop
{
	my ($self, $mode) = @_;
	my $start = time;
	my $stopped = $self->stop($mode, fail_ok => 1);
	my $took = time - $start;
	return $took if $stopped;
	diag "the server did not stop; the end of its log:\n" . substr($self->log_since, -4000);
	$self->stop('immediate', fail_ok => 1);
	return;
}

# Programs

# Starts a program of the installation in the background: an IPC::Run handle. Its output goes to `output` (a reference).
sub background_program
{
	my ($self, $command, $output) = @_;
	local %ENV = $self->_get_env();
	my ($program, @arguments) = @$command;
	my ($in, $drop) = ('', '');
	$output //= \$drop;
	return IPC::Run::start([ $self->installed_command($program), @arguments ], '<', \$in, '>', $output, '2>&1',
		IPC::Run::timeout(300));
}

# Clients that enqueue, claim and complete until they are stopped.
sub load
{
	my ($self, $db, %options) = @_;
	my $script = $self->basedir . '/load.sql';
	append_to_file($script, <<'SQL') unless -e $script;
SELECT jobq.enqueue('load', jsonb_build_object('n', :client_id)) \gset
SELECT jobq.complete(c.id, c.lease) FROM jobq.claim('default', 1, 'load-' || :client_id) AS c;
SQL
	return $self->background_program(
		[ 'pgbench', '-n', '-c', $options{clients} // 4, '-T', $options{seconds} // 120, '-f', $script, $self->connstr($db) ],
		$options{output});
}

sub stop_program
{
	my ($handle) = @_;
	eval { $handle->kill_kill(grace => 5); };
	return;
}

1;
