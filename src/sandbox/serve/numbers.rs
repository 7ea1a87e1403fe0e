//! Starts in numbers.

use super::book::Page;
use super::events::OperationState;
use super::operation::Operation;
use crate::sandbox::plan::Step;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::time::Duration;

type Labels = Vec<(&'static str, &'static str)>;

/// What is counted of starts.
pub(super) struct Numbers {
    ended: Family<Labels, Counter>,
    took: Histogram,
    steps: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            ended: Family::default(),
            took: seconds(),
            steps: Family::new_with_constructor(seconds),
        }
    }
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.05, 2.0, 15))
}

impl Numbers {
    pub(super) fn step(&self, step: Step, duration_ms: u64) {
        let took = Duration::from_millis(duration_ms).as_secs_f64();
        self.steps.get_or_create(&vec![("step", step.as_str())]).observe(took);
    }

    pub(super) fn ended(&self, operation: &Operation) {
        self.ended.get_or_create(&vec![("outcome", operation.state.as_str())]).inc();
        if let Some(at) = operation.finished_at.filter(|_| operation.state == OperationState::Succeeded) {
            self.took
                .observe(at.0.duration_since(operation.created_at.0).as_secs_f64().max(0.0));
        }
    }

    pub(super) fn register(&self, mut registry: Registry, pages: &BTreeMap<String, Page>) -> Registry {
        let states = Family::<Labels, Gauge>::default();
        for state in OperationState::ALL {
            states.get_or_create(&vec![("state", state.as_str())]).set(0);
        }
        for page in pages.values() {
            states.get_or_create(&vec![("state", page.operation.state.as_str())]).inc();
        }
        registry.register("serve_operations", "Operations that are remembered, by state", states);
        registry.register("serve_starts", "Starts that are over, by outcome", self.ended.clone());
        let help = "How long starts took that succeeded, from the request on";
        registry.register_with_unit("serve_start_duration", help, Unit::Seconds, self.took.clone());
        let help = "How long the steps of starts took";
        registry.register_with_unit("serve_step_duration", help, Unit::Seconds, self.steps.clone());
        registry
    }
}
