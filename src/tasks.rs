//! Tasks that share one copy of the runtime's code.
//!
//! tokio makes the code that polls, ends, cancels and frees a task anew for every kind of future, and that for both of its schedulers: some
//! two kilobytes each time. In a box a future is of one kind for each type of its answer; that costs an allocation per task.

use futures_util::future::FutureExt;
use std::future::Future;
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
