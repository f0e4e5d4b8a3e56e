-- Inserting an attempt costs one index less each: jobs are looked up by the primary key, times by a block range index (rows arrive in
-- their order), and what each revision ran is counted as it arrives.
drop index attempts_queue_job_id_idx;
drop index attempts_plugin_revision_idx;
drop index attempts_finished_at_idx;
create index attempts_finished_at_idx on attempts using brin (finished_at);

create table revision_attempts (
    plugin text not null,
    revision text not null,
    attempts bigint not null,
    primary key (plugin, revision)
);
insert into revision_attempts
    select plugin, revision, count(*) from attempts where plugin is not null and revision is not null group by plugin, revision;
