-- What happened: one row per finished attempt. The revision is a value, not a reference: history outlives revisions.
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
    primary key (prefix, queue, job_id, job_created_ms, started)
);
create index on attempts (queue, job_id);
create index on attempts (plugin, revision);
create index on attempts (finished_at);
