-- Searches that operators come back to, by installation. What is there now and what was before change places when a change is undone; nothing
-- in `search` means that it is forgotten.
create table saved_searches (
    prefix text not null,
    name text not null,
    -- The filter, the state for jobs in Redis, and how far back from now it looks.
    search jsonb,
    previous jsonb,
    created_at timestamptz not null default now(),
    created_by text not null,
    changed_at timestamptz not null default now(),
    changed_by text not null,
    primary key (prefix, name)
);

-- What operators did to a job, and around the time when it was made.
create index on operator_actions (target, id);
create index on operator_actions (began_at);
create index on audit_entries (correlation_id) where correlation_id is not null;
