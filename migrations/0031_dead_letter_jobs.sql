-- Which jobs a group of dead letters has, and where each is now. A final failure writes its row with the attempt; rows of failures that are
-- here already, or that a host of the version before records, are written by the task of the leader: `jobs_listed` says how many of the
-- failures (`jobs`) it has read. So this migration reads and locks nothing that grows.
alter table dead_letters
    add column jobs_listed bigint not null default 0,
    -- When no job of it failed or waited any more. The next failure opens it again.
    add column closed_at timestamptz;
create index on dead_letters (prefix) where jobs_listed < jobs;

create table dead_letter_jobs (
    dead_letter bigint not null references dead_letters on delete cascade,
    prefix text not null,
    queue text not null,
    job_id text not null,
    job_created_ms bigint not null,
    -- The start with which it failed last in this group.
    started integer not null,
    failed_at timestamptz not null,
    -- 'failing': in the failed state. 'waiting': to run again, or running. 'repaired': has completed since. 'removed': no longer in Redis, and
    -- has not completed. 'elsewhere': its last final failure is in another group.
    state text not null check (state in ('failing', 'waiting', 'repaired', 'removed', 'elsewhere')),
    changed_at timestamptz not null default now(),
    primary key (dead_letter, job_id, job_created_ms) include (state)
);
-- What else is known of a job that has ended.
create index on dead_letter_jobs (prefix, queue, job_id, job_created_ms);
-- What can still change: all in turn, and the newest of one group.
create index on dead_letter_jobs (prefix, dead_letter, job_id, job_created_ms) where state in ('failing', 'waiting', 'removed');
create index on dead_letter_jobs (dead_letter, state, failed_at desc) where state in ('failing', 'waiting', 'removed');
