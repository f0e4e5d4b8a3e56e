-- The history by month: what is old goes as a whole table. The key must hold the partition's column; a record that comes twice has the same
-- `finished_at`, so it is known again all the same.
alter table attempts rename to attempts_before;
alter table attempts_before rename constraint attempts_pkey to attempts_before_pkey;
drop index attempts_finished_at_idx;

create table attempts (
    prefix text not null,
    queue text not null,
    job_id text not null,
    job_created_ms bigint not null,
    started integer not null,
    attempt integer not null,
    name text not null,
    plugin text,
    revision text,
    host text not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    outcome text not null,
    verdict text not null,
    code text,
    message text,
    stack text,
    correlation_id text not null,
    -- Who says so: 'host', the host that ran it; 'mirror', seen from outside; 'worker-lost', inferred from a gap.
    source text not null default 'host',
    platform text,
    -- The parent's queue and id, 'queue:id', of a flow's child.
    parent text,
    -- Outside calls: an array of what, where, how it ended and when; never a body.
    calls jsonb,
    -- Which failures are alike: of the code and the normalised message; of final failures only.
    fingerprint bytea check (octet_length(fingerprint) = 16),
    -- Data and result of the job, sealed, with the attempt that ended it; and the master key that sealed them.
    body bytea,
    body_key text,
    -- When a person's data in it was erased.
    erased_at timestamptz,
    primary key (prefix, queue, job_id, job_created_ms, started, finished_at)
) partition by range (finished_at);
-- Encrypted bytes do not compress.
alter table attempts alter column body set storage external;

create index on attempts (queue, finished_at);
create index on attempts (name, finished_at);
create index on attempts (correlation_id);
create index on attempts (finished_at);
create index on attempts (finished_at) where outcome <> 'completed';
create index on attempts (code, finished_at) where code is not null;
create index on attempts (queue, finished_at) where outcome <> 'completed';
-- Enough of a digest to tell revisions apart: the whole would double the index.
create index on attempts (left(revision, 8), finished_at);
create index on attempts (fingerprint, finished_at) where fingerprint is not null;
create index on attempts (finished_at) where source = 'worker-lost';

-- Values at the paths of job data that manifests declare searchable: of each a keyed hash, so that no personal data stands here in the clear.
create table attempt_terms (
    term bytea not null check (octet_length(term) = 16),
    finished_at timestamptz not null,
    prefix text not null,
    queue text not null,
    job_id text not null,
    job_created_ms bigint not null,
    started integer not null,
    primary key (term, finished_at, prefix, queue, job_id, job_created_ms, started)
) partition by range (finished_at);
-- To forget them with their attempts.
create index on attempt_terms (queue, finished_at);

-- Whatever has no partition of its own, for example by a clock that is years off.
create table attempts_other partition of attempts default;
create table attempt_terms_other partition of attempt_terms default;

-- Makes the partitions of the month of `at`, where they are missing; gives whether it did. Rows of that month that went elsewhere move in.
create function make_history_partition(at timestamptz) returns boolean language plpgsql as $$
declare
    first timestamptz := date_trunc('month', at at time zone 'UTC') at time zone 'UTC';
    after timestamptz := (date_trunc('month', at at time zone 'UTC') + interval '1 month') at time zone 'UTC';
    month text := to_char(at at time zone 'UTC', 'YYYY_MM');
    base text;
    made boolean := false;
begin
    -- Two hosts may notice at once.
    perform pg_advisory_xact_lock(7521983046213451);
    foreach base in array array['attempts', 'attempt_terms'] loop
        if to_regclass(format('patchbay.%I', base || '_other')) is null then
            execute format('create table patchbay.%I partition of patchbay.%I default', base || '_other', base);
            made := true;
        end if;
        if to_regclass(format('patchbay.%I', base || '_' || month)) is null then
            execute format('create table patchbay.%I (like patchbay.%I including all)', base || '_' || month, base);
            execute format('with moved as (delete from patchbay.%I where finished_at >= %L and finished_at < %L returning *) '
                'insert into patchbay.%I select * from moved', base || '_other', first, after, base || '_' || month);
            execute format('alter table patchbay.%I attach partition patchbay.%I for values from (%L) to (%L)',
                base, base || '_' || month, first, after);
            made := true;
        end if;
    end loop;
    return made;
end $$;

select make_history_partition(month) from (
    select distinct date_trunc('month', finished_at) as month from attempts_before
    union select now() union select now() + interval '1 month' union select now() + interval '2 months') months;

insert into attempts (prefix, queue, job_id, job_created_ms, started, attempt, name, plugin, revision, host, started_at, finished_at,
        outcome, verdict, code, message, stack, correlation_id)
    select prefix, queue, job_id, job_created_ms, started, attempt, name, plugin, revision, host, started_at, finished_at,
        outcome, verdict, code, message, stack, correlation_id from attempts_before;
drop table attempts_before;

-- Dead letters: jobs that failed for good, by what their failure looks like and the revision that it happened in.
create table dead_letters (
    id bigint generated always as identity primary key,
    prefix text not null,
    queue text not null,
    fingerprint bytea not null check (octet_length(fingerprint) = 16),
    plugin text not null default '',
    revision text not null default '',
    code text not null,
    -- Numbers, ids and quoted values replaced.
    message text not null,
    jobs bigint not null,
    first_seen timestamptz not null,
    last_seen timestamptz not null,
    acknowledged_at timestamptz,
    acknowledged_by text,
    assignee text,
    note text,
    unique (prefix, queue, fingerprint, plugin, revision)
);
create index on dead_letters (last_seen);

-- Keys that seal data and results, themselves sealed under a master key: when that changes, only these rows do.
create table history_keys (
    id text primary key,
    key_id text not null,
    nonce bytea not null,
    ciphertext bytea not null,
    created_at timestamptz not null default now()
);

-- Jobs that stalled: which of their starts nobody has told the end of is looked at once all that came before is here.
create table history_gaps (
    prefix text not null,
    queue text not null,
    job_id text not null,
    job_created_ms bigint not null,
    started integer not null,
    stalled integer not null,
    attempt integer not null,
    name text not null,
    correlation_id text not null,
    platform text,
    noted_at timestamptz not null default now(),
    primary key (prefix, queue, job_id, job_created_ms, started)
);

-- How long attempts are kept, where it differs from the configuration. An empty outcome means every one without a row of its own.
create table history_retention (
    queue text not null,
    outcome text not null,
    days integer not null check (days between 1 and 36500),
    changed_at timestamptz not null default now(),
    changed_by text not null,
    primary key (queue, outcome)
);

-- The last time that old attempts were forgotten.
create table history_pruned (
    only_one boolean primary key default true check (only_one),
    started_at timestamptz not null,
    ended_at timestamptz,
    attempts bigint not null default 0,
    partitions integer not null default 0,
    error text
);
