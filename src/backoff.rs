//! How long to wait before trying again. Pure; the caller keeps the time and brings the randomness.

use std::time::Duration;

/// systemd's `RestartSec=`, `RestartMaxDelaySec=` and `RestartSteps=`: grows from `delay` to `max` in `steps` equal factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// The first wait.
    pub delay: Duration,
    /// The longest wait; less than `delay` counts as `delay`.
    pub max: Duration,
    /// How many waits it takes to get from the one to the other; 0 = it never grows.
    pub steps: u32,
}

impl Steps {
    /// The wait before attempt `attempt` (from 0), without jitter. A `delay` of zero is zero once, then grows from a millisecond.
    pub fn base(&self, attempt: u32) -> Duration {
        if attempt == 0 || self.steps == 0 {
            return self.delay;
        }
        let delay = self.delay.max(Duration::from_millis(1));
        let max = self.max.max(delay);
        if attempt >= self.steps {
            return max;
        }
        let exponent = f64::from(attempt) / f64::from(self.steps);
        let factor = (max.as_secs_f64() / delay.as_secs_f64()).powf(exponent);
        delay.mul_f64(factor).clamp(delay, max)
    }

    /// The wait before attempt `attempt`, moved up to a quarter of the way to the next one: never shorter than the one before it, never
    /// over `max`. Only the low 16 bits of `random` count.
    pub fn wait(&self, attempt: u32, random: u64) -> Duration {
        let (here, next) = (self.base(attempt), self.base(attempt.saturating_add(1)));
        here + (next.saturating_sub(here) / 4).mul_f64(fraction(random))
    }
}

/// A wait between zero and `base` doubled `attempt` times, at most `max`: "full jitter", for clients that fail together and must not come
/// back together.
pub fn full_jitter(base: Duration, max: Duration, attempt: u32, random: u64) -> Duration {
    let ceiling = base.saturating_mul(2u32.saturating_pow(attempt.min(31))).min(max);
    ceiling.mul_f64(fraction(random))
}

/// Spreads a seed and a counter over all 64 bits (splitmix64), so that the same two give the same jitter.
pub fn mix(seed: u64, counter: u64) -> u64 {
    let mut z = seed
        .wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// From 0 to 1.
fn fraction(random: u64) -> f64 {
    f64::from(u16::try_from(random & 0xffff).expect("masked to 16 bits")) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULT: Steps = Steps {
        delay: Duration::from_millis(100),
        max: Duration::from_secs(30),
        steps: 6,
    };

    #[test]
    fn grows_from_delay_to_max_in_so_many_steps() {
        assert_eq!(DEFAULT.base(0), Duration::from_millis(100));
        assert!(DEFAULT.base(5) < Duration::from_secs(30));
        assert_eq!(DEFAULT.base(6), Duration::from_secs(30));
        assert_eq!(DEFAULT.base(u32::MAX), Duration::from_secs(30));
    }

    #[test]
    fn no_delay_is_no_delay_once() {
        let steps = Steps {
            delay: Duration::ZERO,
            ..DEFAULT
        };
        assert_eq!(steps.base(0), Duration::ZERO);
        assert!(steps.base(1) > Duration::ZERO);
        assert_eq!(steps.base(6), Duration::from_secs(30));
    }

    proptest! {
        #[test]
        fn never_shrinks_and_never_passes_the_maximum(
            delay in 0u64..5000, max in 0u64..60_000, steps in 0u32..12, attempt in 0u32..40, a: u64, b: u64,
        ) {
            let steps = Steps { delay: Duration::from_millis(delay), max: Duration::from_millis(max), steps };
            prop_assert!(steps.wait(attempt, a) <= steps.wait(attempt + 1, b));
            prop_assert!(steps.wait(attempt, a) <= steps.max.max(steps.delay).max(Duration::from_millis(1)));
        }

        #[test]
        fn full_jitter_stays_below_its_ceiling(base in 0u64..5000, max in 0u64..60_000, attempt: u32, random: u64) {
            let (base, max) = (Duration::from_millis(base), Duration::from_millis(max));
            prop_assert!(full_jitter(base, max, attempt, random) <= max);
        }
    }
}
