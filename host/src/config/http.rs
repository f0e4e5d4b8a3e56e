//! `[http]`: the server's address, and limits for clients.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::key::{WinsOver, key, section};
use super::kind::{listen, milliseconds, networks, number, origins};
use patchbay_http::HttpLimits;

section! {
    /// The server.
    pub struct Http {
        /// Address and port of HTTP; PORT alone means 0.0.0.0:PORT
        listen: SocketAddr = key("http.listen", listen())
            .default("127.0.0.1:8080")
            .or_from("PORT", WinsOver::File, |port| Some(format!("0.0.0.0:{port}")));
        /// Time limit for a request's head, and for idle connections: longer than a load balancer
        /// keeps them (60 s is usual)
        header_timeout: Duration = key("http.header_timeout_ms", milliseconds(100..=600_000)).default("75000");
        /// Time limit for a whole request body
        body_timeout: Duration = key("http.body_timeout_ms", milliseconds(100..=3_600_000)).default("120000");
        /// A client that reads nothing of its answer for this long is disconnected
        write_timeout: Duration = key("http.write_timeout_ms", milliseconds(100..=3_600_000)).default("60000");
        /// Maximum number of open connections; further ones wait. If you raise it, raise the limit
        /// of open files, too (1024 is usual)
        max_connections: usize = key("http.max_connections", number(1..=100_000)).default("512");
        /// Addresses or networks of proxies whose X-Forwarded-For is trusted; failed logins count
        /// by the client's address
        trusted_proxies: Vec<IpNet> = key("http.trusted_proxies", networks()).or_empty();
        /// Origins, such as https://ops.example, whose pages may change things here besides this
        /// host's own; for a proxy that changes Host
        allowed_origins: Vec<String> = key("http.allowed_origins", origins()).or_empty();
    }
}

impl Http {
    pub fn limits(&self) -> HttpLimits {
        HttpLimits {
            header_timeout: *self.header_timeout,
            body_timeout: *self.body_timeout,
            write_timeout: *self.write_timeout,
            max_connections: *self.max_connections,
            trusted_proxies: self.trusted_proxies.as_slice().into(),
            allowed_origins: self.allowed_origins.as_slice().into(),
        }
    }
}
