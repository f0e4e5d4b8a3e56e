-- Plugins, their revisions, and what operators did.
create table plugins (
    name text primary key,
    active text,
    generation bigint not null default 0,
    settings jsonb not null default '{}'
);

create table revisions (
    digest text primary key,
    plugin text not null references plugins (name),
    version text not null,
    manifest jsonb not null,
    component bytea not null,
    state text not null default 'staged' check (state in ('staged', 'active', 'retired')),
    created_at timestamptz not null default now(),
    created_by text not null,
    activated_at timestamptz
);
create index on revisions (plugin, created_at desc);

-- Append-only. `grants` is what the revision was granted then.
create table activations (
    id bigint generated always as identity primary key,
    plugin text not null,
    digest text,
    grants jsonb not null,
    actor text not null,
    at timestamptz not null default now()
);
create index on activations (plugin, id desc);

create table operator_actions (
    id bigint generated always as identity primary key,
    actor text not null,
    action text not null,
    target text not null,
    details jsonb not null,
    began_at timestamptz not null default now(),
    ended_at timestamptz,
    result jsonb,
    error text
);
