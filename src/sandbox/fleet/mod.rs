//! Many sandboxes at once: what each last said about itself, and whom to ask next.
//!
//! A sandbox pushes its status (`[report] url`); one that has fallen silent, or never pushed, is asked. [`state`] decides and is pure;
//! [`keeper`] is the one task that owns it; [`poll`] asks over HTTP. What is asked is bounded, spread and backed off, and sandboxes that
//! do not answer have a lane of their own, so that however many are dead the living are asked in time.

pub mod heard;
pub mod keeper;
pub mod metrics;
pub mod poll;
pub mod state;
pub mod view;

pub use heard::Heard;
pub use keeper::{FleetGone, FleetHandle, Prober, Target};
pub use state::{By, Change, Fleet, Lane, Policy, Poll, Presence};
pub use view::{FleetRow, FleetView};
