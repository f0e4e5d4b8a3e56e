-- What operators do to many jobs at once: one row per operation. Its items are chosen first and then worked off, so that it can stop and go
-- on anywhere, and nothing is done twice.
create sequence bulk_ids;

create table bulks (
    id bigint primary key,
    prefix text not null,
    kind text not null check (kind in ('retry', 'remove', 'enqueue-again', 'edit-and-retry')),
    -- Where the items come from.
    source text not null check (source in ('live', 'history')),
    -- The state of the jobs that are meant, BullMQ's word.
    job_state text not null,
    filter jsonb not null,
    -- For jobs that are added anew: 'keep' or 'new'.
    identity text check (identity in ('keep', 'new')),
    -- May hold personal data: gone with the end of the operation.
    edits text,
    actor text not null,
    reason text,
    --   matching ─▶ running ─▶ done          running ─(so many are handled)─▶ paused ─(operator)─▶ running
    --   matching, running, paused ─(operator)─▶ cancelled          ─(it cannot go on)─▶ failed
    --   of a removal: done, cancelled, failed ─(operator, within the hour)─▶ undoing ─▶ undone
    state text not null default 'matching'
        check (state in ('matching', 'running', 'paused', 'done', 'cancelled', 'failed', 'undoing', 'undone')),
    -- Where the choosing has got to.
    place jsonb,
    -- Pause once so many are done or have failed.
    stop_after bigint,
    error text,
    matched bigint not null default 0,
    done bigint not null default 0,
    skipped bigint not null default 0,
    failed bigint not null default 0,
    restored bigint not null default 0,
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    undo_until timestamptz
);
create index on bulks (id) where state in ('matching', 'running', 'undoing');

create table bulk_items (
    bulk bigint not null references bulks on delete cascade,
    n bigint generated always as identity,
    queue text not null,
    job_id text not null,
    job_created_ms bigint not null,
    job_state text not null,
    -- When the job had ended, Unix milliseconds: tells whether it has run since it was chosen.
    finished_on bigint,
    state text not null default 'pending' check (state in ('pending', 'done', 'skipped', 'failed', 'restored', 'lost')),
    reason text,
    -- Of a job that was added.
    new_id text,
    -- Where a removed job stood in its sorted set.
    score float8,
    primary key (bulk, n),
    unique (bulk, queue, job_id, job_created_ms)
);
create index on bulk_items (bulk, n) where state = 'pending';

-- What was there when somebody acknowledged it, so that what has come since can be told.
alter table dead_letters add column jobs_acknowledged bigint;
