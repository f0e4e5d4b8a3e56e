//! The host from outside: the real binary, a real Postgres, Redis and mail server, and real BullMQ clients.

// A test binary has no outside that `pub` could mean.
#![allow(unreachable_pub)]

mod alerts;
mod audit;
mod backup;
mod bad_input;
mod breaker;
mod bulk;
mod bull_board;
mod cable;
mod chaos;
mod commands;
mod damaged;
mod dead_letters;
mod dev;
mod features;
mod first_hour;
mod fleet;
mod grants;
mod harness;
mod health;
mod history;
mod incident;
mod interop;
mod journeys;
mod leak;
mod listing;
mod load;
mod logins;
mod mail;
mod metrics;
mod names;
mod operations;
mod plugin_call;
mod poison;
mod postgres_server;
mod quarantine;
mod recovery;
mod redis_server;
mod registry;
mod runbook;
mod runbook_f;
mod sandbox;
mod schedules;
mod search;
mod secrets;
mod signatures;
mod sql;
mod swap;
mod traces;
mod unbroken;
mod versions;
mod watch;
