//! The pure core, tried in virtual time: named scenarios, the machine as a table, and random lives whose invariants hold.
#![allow(missing_docs, reason = "tests")]

mod bench;
mod facts;
mod invariants;
mod kit;
mod outside;
mod random;
mod scenario;
mod scenarios_change;
mod scenarios_order;
mod scenarios_restart;
mod scenarios_run;
mod steps;
mod table;
mod world;
