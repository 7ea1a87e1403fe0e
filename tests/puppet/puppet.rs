//! A program that does what it is told: what the tests put under supervision.
//!
//! Its arguments are a script, done from left to right; at the end it exits with 0. Each word is one of those in `act`.

mod acts;

fn main() {
    let script: Vec<String> = std::env::args().skip(1).collect();
    acts::run(&script);
}
