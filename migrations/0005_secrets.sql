-- Secrets of plugins, sealed by the hosts: the database never sees a value.

-- Versions are never given twice, also not after a removal: a seal is bound to its version.
create table secret_names (
    plugin text not null references plugins (name),
    name text not null,
    last_version integer not null,
    primary key (plugin, name)
);

create table secrets (
    id bigint generated always as identity primary key,
    plugin text not null,
    name text not null,
    version integer not null,
    -- Which master key has sealed it.
    key_id text not null,
    nonce bytea not null check (octet_length(nonce) = 12),
    ciphertext bytea not null,
    created_at timestamptz not null default now(),
    created_by text not null,
    -- When a replaced version ends; absent for the newest.
    ends_at timestamptz,
    -- To about half a minute.
    last_used_at timestamptz,
    unique (plugin, name, version),
    foreign key (plugin, name) references secret_names (plugin, name)
);
