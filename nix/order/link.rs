//! Tells the linker of a static binary to put what a supervisor runs in one place; `record` beside this says why.
#![allow(clippy::print_stdout, reason = "it is how a build script speaks")]

fn main() {
    println!("cargo::rerun-if-changed=nix/order/supervisor.ld");
    // Relative, so that the same command builds the same bytes in every folder.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bin=sandkeep=-Wl,-T,nix/order/supervisor.ld");
    }
}
