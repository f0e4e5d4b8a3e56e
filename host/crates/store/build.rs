//! The migrations are part of the binary: a new or renamed file must be noticed.

fn main() {
    println!("cargo:rerun-if-changed=../../../migrations");
}
