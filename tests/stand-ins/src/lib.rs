//! Local servers that behave as the vendors of plugins do, as far as that is known, and misbehave
//! when they are told to: for tests, and for trying a plugin without an account.
//!
//! Each is a library with a `start`, and a command: `cargo run -p patchbay-stand-ins -- exotel`, or `-- smtp`.

mod breakable;
pub mod exotel;
pub mod graphy;
pub mod smtp;
