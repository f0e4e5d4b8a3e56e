//! Misbehaviour towards WASI: each is a call that a standard host must survive.

use patchbay_plugin::{Failure, Value, json};
use wasip2::cli::{stdin, stdout};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{Fields, IncomingResponse, Method, OutgoingRequest, Scheme};
use wasip2::io::poll::{Pollable, poll};
use wasip2::random::{insecure, random};

/// Absent when there is no such kind.
pub fn misbehave(kind: &str) -> Option<Result<Value, Failure>> {
    match kind {
        "exit-0" => std::process::exit(0),
        "exit-3" => std::process::exit(3),
        "exit-after-a-word" => {
            eprintln!("Assertion failed: balance >= 0 (book.c: post: 41)");
            std::process::exit(134)
        }
        "abort" => std::process::abort(),
        "random" => drop(random::get_random_bytes(1 << 32)),
        "insecure-random" => drop(insecure::get_insecure_random_bytes(u64::MAX)),
        "random-mebibyte" => return Some(Ok(random::get_random_bytes(1 << 20).len().into())),
        "handles" => {
            let pollables: Vec<Pollable> = (0..1_000_000)
                .map(|_| subscribe_duration(u64::MAX))
                .collect();
            std::mem::forget(pollables);
        }
        "streams" => {
            let streams: Vec<_> = (0..1_000_000).map(|_| stdout::get_stdout()).collect();
            std::mem::forget(streams);
        }
        "handles-given-back" => {
            for _ in 0..20_000 {
                drop((subscribe_duration(1), stdout::get_stdout(), Fields::new()));
            }
        }
        "fields" => {
            let fields: Vec<Fields> = (0..2_000).map(|_| with_value(120_000)).collect();
            std::mem::forget(fields);
        }
        "small-fields" => {
            let first = Fields::new();
            for n in 0..1_000 {
                first.append(&format!("x-{n}"), &[]).expect("a header");
            }
            // Writing to a clone copies it.
            let clones: Vec<Fields> = (0..2_000).map(|_| first.clone()).collect();
            for fields in &clones {
                fields.append("y", &[]).expect("a header");
            }
        }
        "field-clones" => {
            let first = with_value(120_000);
            let clones: Vec<Fields> = (0..2_000).map(|_| first.clone()).collect();
            return Some(Ok(clones.len().into()));
        }
        "giant-field" => drop(with_value(1 << 20)),
        "invalid-field" => {
            let refused = [
                Fields::new().append("x y", b"1").is_err(),
                Fields::new().append("x", b"1\r\nx: 2").is_err(),
                Fields::from_list(&[("".to_owned(), vec![])]).is_err(),
            ];
            return Some(Ok(json!(refused)));
        }
        "methods" => {
            let long = "X".repeat(4 << 20);
            let requests: Vec<OutgoingRequest> = (0..1_000)
                .map(|_| OutgoingRequest::new(Fields::new()))
                .collect();
            for request in &requests {
                let _ = request.set_method(&Method::Other(long.clone()));
            }
            std::mem::forget(requests);
        }
        "bodies" => {
            let mut open = Vec::new();
            for _ in 0..1_000 {
                let request = OutgoingRequest::new(Fields::new());
                let body = request.body().expect("a body");
                let stream = body.write().expect("its stream");
                while let Ok(room @ 1..) = stream.check_write() {
                    stream.write(&vec![1; room as usize]).expect("room");
                }
                open.push((request, body, stream));
            }
            std::mem::forget(open);
        }
        "unfinished" => {
            let request = OutgoingRequest::new(Fields::new());
            let body = request.body().expect("a body");
            request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
            request
                .set_authority(Some("127.0.0.1:9"))
                .expect("an authority");
            std::mem::forget((body, handle(request, None)));
        }
        "poll-nothing" => drop(poll(&[])),
        "poll-a-million" => {
            let never = subscribe_duration(u64::MAX);
            drop(poll(&vec![&never; 1_000_000]));
        }
        "poll-many" => {
            let never: Vec<Pollable> = (0..1_000).map(|_| subscribe_duration(u64::MAX)).collect();
            drop(poll(&never.iter().collect::<Vec<_>>()));
        }
        "wait-forever" => subscribe_duration(u64::MAX).block(),
        "poll-busily" => loop {
            drop(poll(&[&subscribe_duration(0)]));
        },
        "write-too-much" => drop(stdout::get_stdout().blocking_write_and_flush(&[b'x'; 5_000])),
        "zeroes" => drop(stdout::get_stdout().write_zeroes(u64::MAX)),
        "splice" => {
            let moved = stdout::get_stdout().splice(&stdin::get_stdin(), u64::MAX);
            return Some(Ok(moved.is_err().into()));
        }
        "print-without-end" => {
            let stream = stdout::get_stdout();
            for _ in 0..1_000 {
                stream.write(&[b'x'; 60_000]).expect("room");
            }
        }
        "unknown-handle" => drop(unsafe { Pollable::from_handle(4_711) }),
        "dropped-twice" => {
            let handle = subscribe_duration(1).take_handle();
            for _ in 0..2 {
                drop(unsafe { Pollable::from_handle(handle) });
            }
        }
        "wrong-type" => {
            let handle = subscribe_duration(1).take_handle();
            unsafe { IncomingResponse::from_handle(handle) }.status();
        }
        "parent-dropped-first" => {
            let stream = stdout::get_stdout();
            let pollable = stream.subscribe();
            drop(stream);
            drop(pollable);
        }
        _ => return None,
    }
    Some(Ok(Value::Null))
}

fn with_value(bytes: usize) -> Fields {
    let fields = Fields::new();
    fields.append("x", &vec![b'x'; bytes]).expect("a header");
    fields
}
