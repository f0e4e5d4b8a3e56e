-- Schedules that plugins make at run time. `plugin` stays empty for them: a host of the version before removes a plugin's schedules that its
-- manifest does not name, and leaves those alone that belong to nobody.
alter table schedules add column owner text;
create index schedules_of_owner on schedules (owner, id) where owner is not null;
