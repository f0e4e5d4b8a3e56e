-- Who vouches for a revision. A row proves nothing by itself: hosts with trusted keys verify it at every load.
create table revision_signatures (
    digest text not null references revisions (digest) on delete cascade,
    -- The first 16 hexadecimal digits of the SHA-256 of the public key.
    key_id text not null check (key_id ~ '^[0-9a-f]{16}$'),
    signature bytea not null check (octet_length(signature) = 64),
    added_by text not null,
    added_at timestamptz not null default now(),
    primary key (digest, key_id)
);
