-- Operators are people (docs/decisions/036): each has a name, a role and a second factor of their own. Their rows are never deleted, because
-- their names stand in audit trails.
create table operators (
    id uuid primary key,
    -- What is recorded of everything that they do.
    name text not null unique check (name ~ '^[a-z][a-z0-9._-]{0,62}$'),
    email text,
    role text not null check (role in ('viewer', 'operator', 'owner')),
    -- May see data, results and logs of jobs.
    may_see_data boolean not null default false,
    -- oidc: the role comes from groups at the provider, at each login.
    source text not null default 'local' check (source in ('local', 'oidc')),
    -- argon2id, in its PHC form.
    password_hash text,
    -- The secret of the one-time password is derived from the host key `operator-totp` (totp_kid) and this salt: a dump tells nothing of it.
    totp_kid text,
    totp_salt bytea check (octet_length(totp_salt) = 32),
    -- The last step of 30 s whose code was used; a code is good for one login.
    totp_step bigint not null default 0,
    state text not null default 'invited' check (state in ('invited', 'active', 'disabled')),
    -- Raised to end every session.
    epoch int not null default 0,
    created_at timestamptz not null default now(),
    created_by text not null,
    changed_at timestamptz not null default now(),
    last_login_at timestamptz,
    check ((totp_kid is null) = (totp_salt is null))
);

-- Once there is an active owner, one stays. The lock lets two owners who disable each other at once see each other.
create function keep_an_owner() returns trigger language plpgsql set search_path from current as $$
begin
    perform pg_advisory_xact_lock(8097881575291582318);
    if not exists (select from operators where role = 'owner' and state = 'active' and id <> old.id) then
        raise exception 'no active owner would be left' using errcode = 'PB001';
    end if;
    return case tg_op when 'DELETE' then old else new end;
end $$;
create trigger keep_an_owner_at_a_change before update on operators for each row
    when (old.role = 'owner' and old.state = 'active' and (new.role <> 'owner' or new.state <> 'active')) execute function keep_an_owner();
create trigger keep_an_owner_at_a_removal before delete on operators for each row
    when (old.role = 'owner' and old.state = 'active') execute function keep_an_owner();

-- With one of these somebody sets password and second factor, once.
create table operator_links (
    token_hash bytea primary key check (octet_length(token_hash) = 32),
    operator_id uuid not null references operators,
    purpose text not null check (purpose in ('enrol', 'reset')),
    -- The second factor that is shown before a code confirms it.
    totp_kid text,
    totp_salt bytea check (octet_length(totp_salt) = 32),
    created_at timestamptz not null default now(),
    ends_at timestamptz not null,
    used_at timestamptz
);
create index on operator_links (operator_id) where used_at is null;

-- Codes that take the place of the second factor when it is lost.
create table operator_recovery (
    operator_id uuid not null references operators,
    code_mac bytea not null check (octet_length(code_mac) = 32),
    used_at timestamptz,
    primary key (operator_id, code_mac)
);

-- Who somebody is at the provider of single sign-on.
create table operator_identities (
    issuer text not null,
    subject text not null,
    operator_id uuid not null references operators,
    email text,
    created_at timestamptz not null default now(),
    primary key (issuer, subject)
);
create index on operator_identities (operator_id);

create table operator_sessions (
    token_hash bytea primary key check (octet_length(token_hash) = 32),
    id uuid not null unique,
    operator_id uuid not null references operators,
    epoch int not null,
    method text not null check (method in ('password', 'recovery-code', 'oidc')),
    authenticated_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    ends_at timestamptz not null,
    address inet,
    user_agent text check (length(user_agent) <= 512),
    revoked_at timestamptz
);
create index on operator_sessions (operator_id) where revoked_at is null;
create index on operator_sessions (ends_at);

-- Tokens of programs.
create table operator_tokens (
    -- The 8 characters after `pbt_`.
    id text primary key check (length(id) = 8),
    secret_hash bytea not null check (octet_length(secret_hash) = 32),
    operator_id uuid not null references operators,
    name text not null,
    role text not null check (role in ('viewer', 'operator', 'owner')),
    may_see_data boolean not null default false,
    -- As `queues:read`, `plugins:write` or `owner:secrets`.
    scopes text[] not null check (cardinality(scopes) > 0),
    -- Where it may come from; empty: from anywhere.
    networks text[] not null default '{}',
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    last_used_at timestamptz,
    revoked_at timestamptz,
    revoked_by text
);
create unique index on operator_tokens (operator_id, name) where revoked_at is null;

-- Logins by single sign-on that are under way. Nonce and PKCE verifier are derived from the state and the browser's cookie: of both, only hashes
-- are here.
create table oidc_logins (
    state_hash bytea primary key check (octet_length(state_hash) = 32),
    -- Of the browser that began it.
    browser_hash bytea not null check (octet_length(browser_hash) = 32),
    -- link: an operator links a person at the provider. code: the provider has said who it is, and the code of the second factor is missing.
    purpose text not null check (purpose in ('sign-in', 'link', 'code')),
    operator_id uuid references operators,
    -- The second factor that is shown to somebody who has none, before a code confirms it.
    totp_kid text,
    totp_salt bytea check (octet_length(totp_salt) = 32),
    return_to text not null,
    created_at timestamptz not null default now(),
    ends_at timestamptz not null,
    used_at timestamptz,
    check ((purpose = 'sign-in') = (operator_id is null))
);
create index on oidc_logins (browser_hash) where purpose = 'code' and used_at is null;
create index on oidc_logins (ends_at);

-- Whether the login of the configuration (admin.username) still opens the API: on; board: only Bull Board and metrics; off.
create table operator_basic (
    one boolean primary key default true check (one),
    mode text not null default 'on' check (mode in ('on', 'board', 'off')),
    changed_at timestamptz,
    changed_by text
);
insert into operator_basic default values;
