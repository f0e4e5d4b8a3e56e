-- Jobs that come by themselves: what is wanted. Redis holds the next tick of each.
create table schedules (
    id text primary key,
    queue text not null,
    name text not null,
    data text not null,
    every_ms bigint,
    cron text,
    tz text,
    missed text not null check (missed in ('skip', 'once')),
    description text not null default '',
    -- The plugin whose manifest names it; absent for an operator's own.
    plugin text,
    -- An operator's changes to a plugin's schedule outlive the plugin's next revision.
    overridden boolean not null default false,
    paused_by text,
    paused_at timestamptz,
    created_at timestamptz not null default now(),
    created_by text not null,
    updated_at timestamptz not null default now(),
    updated_by text not null,
    check ((every_ms is null) <> (cron is null))
);
