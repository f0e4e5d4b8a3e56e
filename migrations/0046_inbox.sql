-- Requests of vendors to webhooks of plugins. Nothing of a request stands in clear but these columns.
create table inbox (
    id uuid primary key,
    received_at timestamptz not null,
    plugin text not null,
    webhook text not null,
    state text not null check (state in ('accepted', 'enqueued', 'recorded', 'deferred', 'rejected', 'repeat', 'erased')),
    -- Why it was rejected or deferred, and in words for operators.
    code text,
    message text,
    kind text not null default '',
    -- A keyed hash of plugin, webhook and event id; absent until the request is verified.
    event_key bytea check (octet_length(event_key) = 16),
    -- The revision that gave the verdict.
    revision text,
    verified_at timestamptz,
    -- How often it was judged in vain, or its jobs could not be added.
    tries int not null default 0,
    -- When it is looked at again; only of accepted and deferred rows.
    next_try_at timestamptz,
    method text not null,
    content_type text,
    size int not null,
    -- The network of the sender: /24 or /48.
    source text,
    host text not null,
    correlation_id text not null,
    -- Whether Postgres or Redis had it first.
    via text not null default 'postgres' check (via in ('postgres', 'redis')),
    -- The number of its jobs, and of the last processing (0: the first).
    jobs int not null default 0,
    processing int not null default 0,
    -- Request and jobs, sealed with the host key `inbox` of this id. Jobs only until they are in the queue.
    sealed bytea,
    jobs_sealed bytea,
    sealed_key text not null,
    -- From then on the row goes.
    keep_until timestamptz not null,
    -- For how long its event is remembered once it is accepted.
    remember_until timestamptz not null,
    erased_at timestamptz,
    check (state not in ('accepted', 'deferred') or next_try_at is not null)
);
create index on inbox (plugin, webhook, received_at);
create index on inbox (received_at, id);
create index on inbox (event_key) where event_key is not null;
create index on inbox (correlation_id);
create index on inbox (state, next_try_at) where state in ('accepted', 'deferred');
create index on inbox (plugin, webhook, received_at) where state = 'rejected';
create index on inbox (keep_until);

-- The events that are known: a request that brings one again does nothing.
create table inbox_events (
    event_key bytea primary key check (octet_length(event_key) = 16),
    plugin text not null,
    webhook text not null,
    inbox_id uuid not null,
    received_at timestamptz not null,
    repeats bigint not null default 0,
    last_repeat_at timestamptz,
    expires_at timestamptz not null
);
create index on inbox_events (expires_at);

create table inbox_replays (
    id uuid primary key,
    inbox_id uuid not null,
    number int not null,
    by text not null,
    reason text,
    at timestamptz not null default now(),
    revision text,
    outcome text not null,
    jobs int not null default 0,
    unique (inbox_id, number)
);

-- How many requests each webhook got, and what became of them. They outlive the requests.
create table inbox_counts (
    plugin text not null,
    webhook text not null,
    hour timestamptz not null,
    outcome text not null,
    code text not null default '',
    count bigint not null,
    primary key (plugin, webhook, hour, outcome, code)
);

-- Networks whose requests were accepted.
create table inbox_sources (
    plugin text not null,
    webhook text not null,
    network text not null,
    last_accepted_at timestamptz not null,
    primary key (plugin, webhook, network)
);
