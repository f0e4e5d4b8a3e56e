-- Requests to forget a person, or a job: who asked, why, and which jobs that was about. Never the value itself.
create table erasures (
    id bigint generated always as identity primary key,
    prefix text not null,
    -- Of a person: where the value stood in the data of jobs, and a keyed hash of it. Absent where one job was named.
    path text,
    term bytea check (octet_length(term) = 16),
    -- Only jobs of this queue; with an id, only this one.
    queue text,
    job_id text,
    -- Whether jobs that were still to run were meant, too.
    unfinished boolean not null,
    actor text not null,
    reason text not null,
    began_at timestamptz not null default now(),
    -- All its jobs are known: from then on any host can end it. Without it, somebody has to ask again.
    listed_at timestamptz,
    ended_at timestamptz,
    -- By place.
    counts jsonb,
    check ((path is null) = (term is null)),
    check (path is not null or (queue is not null and job_id is not null))
);
create index on erasures (id) where ended_at is null;

create table erased_jobs (
    erasure bigint not null references erasures on delete cascade,
    queue text not null,
    job_id text not null,
    job_created_ms bigint not null,
    -- 'pending', 'running': still to be erased. 'unfinished', 'of-schedule': left in Redis; what the history had is gone.
    state text not null default 'pending' check (state in ('pending', 'running', 'unfinished', 'of-schedule', 'done')),
    at timestamptz not null default now(),
    primary key (erasure, queue, job_id, job_created_ms)
);
create index on erased_jobs (queue, job_id);
create index on erased_jobs (erasure) where state in ('pending', 'running');
