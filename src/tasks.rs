//! Tasks that share one copy of the runtime's code.
//!
//! tokio makes the code that polls, ends, cancels and frees a task anew for every kind of future, and that for both of its schedulers: some
//! two kilobytes each time. In a box a future is of one kind for each type of its answer; that costs an allocation per task.

use futures_util::future::FutureExt;
use std::future::Future;
use std::pin::{Pin, pin};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// As [`tokio::spawn`]: runs on beside the caller; dropping the handle does not end it.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(future.boxed())
}

/// As [`tokio::task::spawn_blocking`]: on a thread where it may wait for disks and processes; it cannot be cancelled once it runs.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let work: Box<dyn FnOnce() -> T + Send> = Box::new(work);
    tokio::task::spawn_blocking(work)
}

/// As [`Runtime::block_on`]: runs a future to its end on this thread.
///
/// # Panics
/// Inside of a runtime.
pub fn block_on<T>(runtime: &Runtime, future: impl Future<Output = T>) -> T {
    let mut answer = None;
    drive(runtime, pin!(async { answer = Some(future.await) }));
    answer.expect("a future that ended has an answer")
}

/// Not generic: here the runtime's loops are compiled, once.
fn drive(runtime: &Runtime, future: Pin<&mut dyn Future<Output = ()>>) {
    runtime.block_on(future);
}
