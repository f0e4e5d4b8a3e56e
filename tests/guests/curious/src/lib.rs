//! Reaches for what WASI offers elsewhere. Not part of the hostile guest, which is measured: what
//! looks for an environment and for files makes each of its instances a third slower.

use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

use patchbay_plugin::{Failure, Job, Jobs, Value, json};

struct Curious;

impl Jobs for Curious {
    /// What it found, and what was refused.
    fn run(_: Job) -> Result<Value, Failure> {
        Ok(json!({
            "variables": std::env::vars().count(),
            "arguments": std::env::args().count(),
            "refused": {
                "read": std::fs::read("/etc/passwd").is_err(),
                "list": std::fs::read_dir(".").is_err(),
                "write": std::fs::write("left-behind", b"x").is_err(),
                "connect": TcpStream::connect("127.0.0.1:6379").is_err(),
                "listen": TcpListener::bind("127.0.0.1:0").is_err(),
                "datagram": UdpSocket::bind("127.0.0.1:0").is_err(),
                "resolve": "localhost:80".to_socket_addrs().is_err(),
            },
        }))
    }
}
patchbay_plugin::export_jobs!(Curious);
