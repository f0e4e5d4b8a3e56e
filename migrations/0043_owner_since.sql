-- Since when an operator is an owner, by whichever way the role came; a new owner raises an alert.
alter table operators add column owner_since timestamptz;
update operators set owner_since = changed_at where role = 'owner';

create function note_owner_since() returns trigger language plpgsql as $$
begin
    if new.role <> 'owner' then
        new.owner_since := null;
    elsif tg_op = 'INSERT' or old.role <> 'owner' then
        new.owner_since := now();
    end if;
    return new;
end $$;
create trigger note_owner_since before insert or update on operators for each row execute function note_owner_since();
