//! `[http]`: the server's address and certificate, and limits for clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::key::{WinsOver, key, section};
use super::kind::{listen, milliseconds, networks, number, origin, origins, text};
use patchbay_http::{HttpLimits, TlsFiles};

section! {
    /// The server.
    pub struct Http {
        /// Address and port of HTTP; PORT alone means 0.0.0.0:PORT
        listen: SocketAddr = key("http.listen", listen())
            .default("127.0.0.1:8080")
            .or_from("PORT", WinsOver::File, |port| Some(format!("0.0.0.0:{port}")));
        /// Time limit for the first request's head on a connection
        first_head_timeout: Duration = key("http.first_head_timeout_ms", milliseconds(100..=600_000)).default("10000");
        /// Time limit for a further request's head, and for idle connections: longer than a load
        /// balancer keeps them (60 s is usual)
        header_timeout: Duration = key("http.header_timeout_ms", milliseconds(100..=600_000)).default("75000");
        /// Time limit for a whole request body
        body_timeout: Duration = key("http.body_timeout_ms", milliseconds(100..=3_600_000)).default("120000");
        /// A client that reads nothing of its answer for this long is disconnected
        write_timeout: Duration = key("http.write_timeout_ms", milliseconds(100..=3_600_000)).default("60000");
        /// Maximum number of open connections; further ones wait. If you raise it, raise the limit
        /// of open files, too (1024 is usual)
        max_connections: usize = key("http.max_connections", number(1..=100_000)).default("512");
        /// Maximum number of open connections of one network (an IPv4 address or an IPv6 /64) that is
        /// not in http.trusted_proxies; further ones are closed. Unset: three quarters of
        /// http.max_connections
        max_connections_per_network: Option<usize> = key("http.max_connections_per_network", number(1..=100_000));
        /// Requests without a login from one network (an IPv4 address or an IPv6 /64) in a minute,
        /// for all hosts together; 0: not limited
        anonymous_per_minute: u32 = key("http.anonymous_per_minute", number(0..=1_000_000)).default("1200");
        /// Addresses or networks of proxies whose X-Forwarded-For is trusted; limits and failed
        /// logins count by the client's address
        trusted_proxies: Vec<IpNet> = key("http.trusted_proxies", networks()).or_empty();
        /// Origins, such as https://ops.example, whose pages may change things here besides this
        /// host's own; for a proxy that changes Host
        allowed_origins: Vec<String> = key("http.allowed_origins", origins()).or_empty();
        /// Origins, such as https://app.example, whose pages may call the API for users (CORS);
        /// never operations of operators
        cors_origins: Vec<String> = key("http.cors_origins", origins()).old(&["SOCKET_CORS_ORIGIN"]).or_empty();
        /// Address under which clients reach the hosts, such as https://api.example, through a proxy
        /// or not
        public_url: Option<String> = key("http.public_url", origin());
        /// PEM file of the certificate for HTTPS, the host's own first, then those that signed it;
        /// needs http.tls_key_file. Without it the host serves plain HTTP
        tls_cert_file: Option<PathBuf> = key("http.tls_cert_file", text());
        /// PEM file of the private key of http.tls_cert_file, mode 600 or 640
        tls_key_file: Option<PathBuf> = key("http.tls_key_file", text());
    }
}

impl Http {
    pub fn limits(&self) -> HttpLimits {
        HttpLimits {
            first_head_timeout: *self.first_head_timeout,
            header_timeout: *self.header_timeout,
            body_timeout: *self.body_timeout,
            write_timeout: *self.write_timeout,
            max_connections: *self.max_connections,
            max_connections_per_network: self
                .max_connections_per_network
                .unwrap_or(*self.max_connections - *self.max_connections / 4),
            trusted_proxies: self.trusted_proxies.as_slice().into(),
            allowed_origins: self.allowed_origins.as_slice().into(),
        }
    }

    /// `None`: plain HTTP.
    pub fn tls(&self) -> Option<TlsFiles> {
        let files = self.tls_cert_file.clone().zip(self.tls_key_file.clone());
        files.map(|(certificate, key)| TlsFiles { certificate, key })
    }

    /// Whether clients reach the hosts by HTTPS.
    pub fn is_https(&self) -> bool {
        let public = self.public_url.as_deref();
        public.is_some_and(|url| url.starts_with("https:"))
    }
}
