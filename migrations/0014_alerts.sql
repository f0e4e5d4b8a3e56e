-- What operators have changed about the rules that are compiled in. Null: as compiled in.
create table alert_rules (
    rule text not null,
    -- What it is about, all when empty; may end in `*`.
    subject text not null default '',
    enabled boolean,
    threshold double precision,
    hold_s integer,
    at_least integer,
    severity text,
    runbook text,
    changed_at timestamptz not null default now(),
    changed_by text not null,
    primary key (rule, subject)
);

-- What is not in order: absent means in order. How long a condition has held is counted and not computed from times, which may jump.
create table alerts (
    rule text not null,
    subject text not null,
    severity text not null,
    firing boolean not null,
    -- Pending: how long it has held. Firing: how long it has been in order again.
    held_ms bigint not null,
    -- Since somebody was last told.
    quiet_ms bigint not null,
    announced boolean not null,
    began_at timestamptz not null,
    fired_at timestamptz,
    -- As it was last seen.
    notice jsonb not null,
    primary key (rule, subject)
);

create table alert_events (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    rule text not null,
    subject text not null,
    event text not null,
    severity text not null,
    reason text not null,
    silenced boolean not null
);
create index on alert_events (at);

-- What still has to be told, the newest state of each alert only. Delivered rows go.
create table alert_deliveries (
    id bigint generated always as identity primary key,
    rule text not null,
    subject text not null,
    channel text not null,
    body jsonb not null,
    -- Raised when a newer state takes the place of an older one.
    version integer not null default 1,
    created_at timestamptz not null default now(),
    next_at timestamptz not null default now(),
    -- By the host that is trying just now.
    claimed_until timestamptz,
    tries integer not null default 0,
    last_error text,
    given_up_at timestamptz,
    unique (rule, subject, channel)
);

create table alert_silences (
    id bigint generated always as identity primary key,
    -- `all`: every rule.
    rule text not null,
    subject text not null default '',
    reason text not null,
    created_at timestamptz not null default now(),
    created_by text not null,
    ends_at timestamptz not null
);

-- What only the process itself can see: its breakers, its readiness, certificates, stalled jobs, where it can deliver to.
create table alert_sightings (
    host text primary key,
    sightings jsonb not null,
    seen_at timestamptz not null default now()
);
