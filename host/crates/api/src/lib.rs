//! What is on the wire between a host and its clients: paths, headers, requests and answers. The server, the command line and the pages
//! share it.

#![warn(missing_docs)]

pub mod headers;
pub mod path;
