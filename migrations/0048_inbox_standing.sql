-- How requests stand, by webhook and state: from one webhook and state straight to the next, and the
-- oldest and newest of each in a step, however many requests there are.
create index inbox_standing on inbox (plugin, webhook, state, received_at);
