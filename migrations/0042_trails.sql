-- Trails of the old backend as data (docs/operations/audit.md): a pack says which accounts may read a trail, where an entry has its
-- actor, action and entity, and which old table gets a copy.
alter table audit_trails
    -- Roles of accounts that may read it. Empty: operators only.
    add column readers text[] not null default '{}',
    -- Which properties of an entry are its actor, action and entity, and which may be there once.
    add column fields jsonb not null default '{}',
    -- The table that gets a copy, and where the values of its columns come from.
    add column projection jsonb;

-- The id of an entry's copy: the same for the same entry, so that the two can be compared, and a copy is not imported as an old row.
create function audit_projection_id(projected text, entry bigint) returns uuid language sql stable parallel safe
    return (select encode(set_byte(set_byte(d, 6, (get_byte(d, 6) & 15) | 128), 8, (get_byte(d, 8) & 63) | 128), 'hex')::uuid
        from (select substr(sha256(convert_to('patchbay audit entry', 'UTF8') || '\x00'::bytea || convert_to(projected, 'UTF8')
            || '\x00'::bytea || convert_to(entry::text, 'UTF8')), 1, 16) as d) as digest);

-- For the alert refresh-reuse.
create index on user_sessions (revoked_at) where revoked_reason = 'refresh-reuse';
