-- What the manifests of activated revisions hide of a queue's jobs. It outlives the revisions: jobs stay in Redis and in the history when a
-- plugin is stopped, quarantined or deleted, and stay hidden.
create table queue_redactions (
    plugin text not null,
    queue text not null,
    -- The plugin's revision that was activated last with this queue in its manifest, and what that hides.
    digest text not null,
    paths text[] not null,
    -- What any activated revision of the plugin has hidden.
    ever text[] not null,
    primary key (plugin, queue)
);

with declared as (
    select r.plugin, q ->> 'name' as queue, r.digest, r.activated_at,
        array(select jsonb_array_elements_text(coalesce(q -> 'redact', '[]'))) as paths
    from revisions r, jsonb_array_elements(coalesce(r.manifest -> 'queues', '[]')) q
    where r.activated_at is not null
)
insert into queue_redactions (plugin, queue, digest, paths, ever)
select distinct on (plugin, queue) plugin, queue, digest, paths,
    array(select distinct unnest(d.paths) from declared d where d.plugin = declared.plugin and d.queue = declared.queue)
from declared order by plugin, queue, activated_at desc;
