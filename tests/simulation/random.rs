//! Random lives in virtual time. `CASES=100000 cargo test --test simulation` lives more of them; `SIMULATION_LOG=1` prints each step.

use crate::scenario::scenario;
use crate::world::run;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn cases() -> u32 {
    std::env::var("CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

fn settings() -> ProptestConfig {
    ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 300,
        // The same lives each time, so that a change is judged by what it changes; another CASES is another set of lives.
        rng_seed: RngSeed::Fixed(u64::from(cases())),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn whatever_happens_the_invariants_hold(scenario in scenario()) {
        run(&scenario, false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases() / 20, ..settings() })]

    #[test]
    fn the_same_inputs_give_the_same_outputs(scenario in scenario()) {
        prop_assert_eq!(run(&scenario, true).log, run(&scenario, true).log);
    }
}
