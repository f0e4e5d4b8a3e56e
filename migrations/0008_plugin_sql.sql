-- What makes this installation different from others on the same server, and the key that its secrets are derived from. One row, for ever.
create table installation (
    only_one boolean primary key default true check (only_one),
    id uuid not null default gen_random_uuid(),
    -- 32 bytes of the server's strong random source.
    key bytea not null default decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')
);
insert into installation default values;
revoke all on installation from public;

-- Jobs that become real with the commit of a plugin's transaction. In a schema of its own: logins of plugins may insert here, and
-- need no right at all in ours.
create schema patchbay_outbox;
revoke all on schema patchbay_outbox from public;
create table patchbay_outbox.jobs (
    id bigint generated always as identity primary key,
    plugin text not null check (octet_length(plugin) <= 64),
    nonce uuid not null,
    issued_ms bigint not null,
    grants text not null check (octet_length(grants) <= 65536),
    payload text not null check (octet_length(payload) <= 16777216),
    mac bytea not null check (octet_length(mac) = 32)
);
revoke all on patchbay_outbox.jobs from public;

-- Rows of the outbox that have become jobs: none of them does so twice.
create table outbox_nonces (
    nonce uuid primary key,
    used_at timestamptz not null default now()
);
create index on outbox_nonces (used_at);
