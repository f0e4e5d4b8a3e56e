-- Keys of vendors: programs of partners that call the API. The key itself is shown once and never stored.
create table vendor_keys (
    -- Names the key in lists and records; the part of it that is not secret.
    prefix text primary key check (prefix ~ '^[a-z2-7]{12}$'),
    -- SHA-256 of the whole key, which has 256 random bits: a slow hash would add nothing.
    secret_hash bytea not null check (octet_length(secret_hash) = 32),
    name text not null check (length(name) between 1 and 100),
    scopes text[] not null check (cardinality(scopes) between 1 and 32),
    -- Who looks after the vendor, such as a sales head; as operators write it.
    assigned_to text check (length(assigned_to) between 1 and 254),
    rate_per_min int not null check (rate_per_min between 1 and 60000),
    state text not null default 'active' check (state in ('active', 'disabled', 'revoked')),
    created_at timestamptz not null default now(),
    created_by text not null,
    changed_at timestamptz not null default now(),
    changed_by text not null,
    -- As it was issued; absent: never.
    expires_at timestamptz,
    -- The key that a rotation has issued in its place, and until when this one goes on.
    replaced_by text references vendor_keys,
    ends_at timestamptz,
    last_used_at timestamptz,
    check ((replaced_by is null) = (ends_at is null))
);
create index on vendor_keys (created_at desc, prefix);

-- Requests with a key by days (UTC). Each host adds up what it has served.
create table vendor_key_uses (
    prefix text not null,
    day date not null,
    -- As `GET /api/vendor/key`.
    route text not null,
    calls bigint not null,
    -- Of these, those that were refused.
    refused bigint not null,
    primary key (prefix, day, route)
);
create index on vendor_key_uses (day);

-- Which keys of access tokens a process verifies: a new one signs when every process has it. Absent: it verifies none, or is of an earlier version.
alter table hosts add column token_keys text[];
