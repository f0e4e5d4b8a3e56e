-- How far the mirror has looked at a queue of BullMQ's: times of jobs' ends, in Unix milliseconds, and an id in its stream of events.
create table mirror_places (
    prefix text not null,
    queue text not null,
    completed_from_ms bigint not null,
    failed_from_ms bigint not null,
    event text not null,
    looked_at timestamptz not null default now(),
    primary key (prefix, queue)
);
