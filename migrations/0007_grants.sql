-- What operators grant to plugins, and what plugins use of it.
create table grants (
    plugin text not null references plugins (name),
    ask text not null,
    granted_by text not null,
    granted_at timestamptz not null default now(),
    primary key (plugin, ask)
);

create table grant_uses (
    plugin text not null,
    ask text not null,
    day date not null,
    uses bigint not null,
    primary key (plugin, ask, day)
);

-- Plugins from before grants existed keep what they ask for: the first host that sees one grants it, once.
alter table plugins add column grants_adopted boolean not null default false;
alter table plugins alter column grants_adopted set default true;
