//! Named courses of events, one behaviour each.

use crate::bench::Bench;
use crate::kit::*;
use sandkeep::supervisor::*;
use sandkeep::unit::*;

#[test]
fn units_start_in_order_and_stop_in_reverse() {
    let mut bench = Bench::new(vec![
        oneshot("install"),
        notify("db"),
        Unit {
            requires: names(&["install", "db"]),
            ..unit("dev")
        },
    ]);
    assert_eq!(bench.done(), ["spawn install", "spawn db"]);
    bench.spawned("install").spawned("db");
    assert_eq!(bench.state("db"), "activating/start");
    bench.exited("install", 0);
    assert_eq!(bench.done(), ["signal install all 15", "empty install"]);
    bench.emptied("install");
    assert_eq!(bench.state("install"), "active/exited*");
    assert_eq!(bench.done(), Vec::<String>::new());
    bench.notice("db", Notice::Ready);
    assert_eq!(bench.done(), ["spawn dev"]);
    bench.spawned("dev");
    assert_eq!(bench.state("dev"), "active/running*");
    assert!(bench.supervisor.status().ready);
    bench.shutdown(secs(30));
    assert_eq!(bench.done(), ["signal dev all 15", "empty dev"]);
    bench.goes("dev");
    assert_eq!(bench.done(), ["signal db all 15", "empty db"]);
    bench.goes("db");
    assert_eq!(bench.done(), ["halt 0"]);
}
