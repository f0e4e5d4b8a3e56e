-- Audit trails: what plugins write down about what they did. The trails are the operators'; plugins may append where that is granted.
create table audit_trails (
    name text primary key,
    description text not null default '',
    -- JSON Schema, draft 2020-12, of its entries.
    schema jsonb not null,
    created_at timestamptz not null default now(),
    created_by text not null,
    changed_at timestamptz not null default now(),
    changed_by text not null
);

-- Append-only, and kept for ever: also the entries of a trail that was removed.
create table audit_entries (
    id bigint generated always as identity primary key,
    trail text not null,
    entry_key text not null,
    -- Of the job that wrote it: it writes an entry once, however often it runs. Absent outside of jobs.
    idempotency_key text,
    plugin text not null,
    revision text not null,
    queue text,
    job_id text,
    correlation_id text,
    at timestamptz not null default now(),
    entry jsonb not null,
    unique (trail, idempotency_key, entry_key)
);
create index on audit_entries (trail, id desc);
create index on audit_entries (plugin, id desc);
create index on audit_entries (job_id, id desc);
create index on audit_entries (at);

create function refuse_change_of_audit_entries() returns trigger language plpgsql as
$$ begin raise exception 'audit entries are append-only'; end $$;
create trigger append_only before update or delete or truncate on audit_entries
    for each statement execute function refuse_change_of_audit_entries();
