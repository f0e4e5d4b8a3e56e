-- What alerts ask every few seconds, in a few steps each, however many requests there are.
-- The oldest request of a webhook that waits for its jobs, or to be judged.
create index inbox_waiting on inbox (state, plugin, webhook, (coalesce(verified_at, received_at)))
    where state in ('accepted', 'deferred');
-- When a request of a webhook was accepted last.
create index on inbox_sources (plugin, webhook, last_accepted_at);
