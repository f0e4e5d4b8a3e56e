-- Accounts of API clients. Their table `users` is the old backend's (people.table) and is never altered; what it lacks is here. No foreign
-- key refers to it: Postgres would put triggers on it.
create table people (
    user_id text primary key,
    -- The address in its one spelling. Null while another account has the same one.
    email_norm text unique,
    google_sub text unique,
    blocked_at timestamptz,
    blocked_by text,
    block_reason text,
    -- Raised to end every session of the account.
    epoch int not null default 0,
    password_changed_at timestamptz,
    -- Values of the old backend's columns that the table lacks.
    missing jsonb not null default '{}'
);

-- A login, with the refresh tokens that descend from it.
create table user_sessions (
    id uuid primary key,
    user_id text not null,
    epoch int not null,
    -- First 8 bytes of SHA-256 of the account's password hash: a password that another program changes ends the session.
    password_mark bytea not null check (octet_length(password_mark) = 8),
    platform text not null,
    method text not null check (method in ('password', 'otp', 'google', 'master')),
    created_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    ends_at timestamptz not null,
    address inet,
    user_agent text check (length(user_agent) <= 512),
    revoked_at timestamptz,
    revoked_reason text
);
create index on user_sessions (user_id) where revoked_at is null;
create index on user_sessions (ends_at);

create table refresh_tokens (
    token_hash bytea primary key check (octet_length(token_hash) = 32),
    session_id uuid not null references user_sessions on delete cascade,
    generation int not null,
    issued_at timestamptz not null default now(),
    expires_at timestamptz not null,
    spent_at timestamptz,
    unique (session_id, generation)
);
-- One live token per session.
create unique index on refresh_tokens (session_id) where spent_at is null;

-- Codes that were sent by mail: of a signup, or to set a new password.
create table one_time_codes (
    id uuid primary key,
    purpose text not null check (purpose in ('signup', 'reset')),
    email_norm text not null,
    user_id text not null,
    code_mac bytea not null check (octet_length(code_mac) = 32),
    -- Of a signup: becomes the account's password only when the code is typed where the signup came from.
    password_hash text,
    network text not null,
    browser_hash bytea check (octet_length(browser_hash) = 32),
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz
);
create unique index on one_time_codes (purpose, email_norm, network) where used_at is null;
create index on one_time_codes (expires_at);

-- Wrong codes per address and network. Kept apart from the codes, so that asking for a new code gives no new tries.
create table one_time_code_tries (
    purpose text not null,
    email_norm text not null,
    network text not null,
    tries int not null,
    ends_at timestamptz not null,
    primary key (purpose, email_norm, network)
);

-- Mails of the host that exist only after the commit of a transaction.
create table mail_outbox (
    id uuid primary key,
    job jsonb not null,
    created_at timestamptz not null default now()
);

-- Codes of the emergency login that were used, by their step of 30 s.
create table spent_master_steps (
    step bigint primary key,
    spent_at timestamptz not null default now()
);
