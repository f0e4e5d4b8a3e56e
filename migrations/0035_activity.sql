-- Who did what: whether an operator did it, or a host by itself.
alter table operator_actions add column kind text not null default 'operator' check (kind in ('operator', 'host'));
update operator_actions set kind = 'host' where actor like 'host %';
create index on operator_actions (began_at desc, id desc);
create index on audit_entries (at desc, id desc);
