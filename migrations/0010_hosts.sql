-- Processes that run now: each says every few seconds what it runs, and what it cannot.
create table hosts (
    host text primary key,
    version text not null,
    -- By plugin: the revision that runs, or would, and why it does not.
    plugins jsonb not null,
    seen_at timestamptz not null default now()
);
