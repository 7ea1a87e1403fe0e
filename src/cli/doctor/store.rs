//! Whether the store can be reached, read and written.

use super::{Finding, Patient};

#[cfg(not(feature = "sync"))]
#[expect(clippy::unused_async, reason = "as with the sync worker built in")]
pub(super) async fn findings(_patient: &Patient) -> Vec<Finding> {
    vec![Finding::ok("store access", "not tried: this build has no sync worker")]
}

#[cfg(feature = "sync")]
pub(super) async fn findings(patient: &Patient) -> Vec<Finding> {
    use crate::sync::project::connect;
    use crate::sync::store::address::Address;
    let about = "store access";
    let Some(config) = &patient.config else { return Vec::new() };
    let look_up = |name: &str| patient.variable(name).map(ToOwned::to_owned);
    let address = match config.sync.store.as_deref() {
        Some(url) => Address::parse(url).map(Some),
        None => Address::from_variables(look_up),
    };
    let address = match address {
        Ok(Some(address)) if config.project_id.is_empty() => Ok(address),
        Ok(Some(address)) => address.for_project(&config.project_id),
        Ok(None) => return Vec::new(),
        Err(error) => Err(error),
    };
    let store = match address.map(|address| connect(address, look_up)) {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => return vec![Finding::fail(about, error.to_string())],
        Err(error) => return vec![Finding::fail(about, error.to_string())],
    };
    vec![tried(&*store).await]
}

/// Lists, writes and removes, below our own prefix.
#[cfg(feature = "sync")]
async fn tried(store: &dyn crate::sync::store::Store) -> Finding {
    use crate::sync::store::{Body, Condition, Info};
    use std::time::{Duration, Instant};
    const PATIENCE: Duration = Duration::from_secs(20);
    let about = "store access";
    let name = store.name();
    let key = format!(".sandkeep/doctor-{}", std::process::id());
    let begin = Instant::now();
    let trial = async {
        store
            .list(".sandkeep/", None)
            .await
            .map_err(|error| format!("listing {name}: {error}"))?;
        let written = store
            .put(
                &key,
                Body::Bytes(bytes::Bytes::from_static(b"doctor")),
                Info::default(),
                Condition::Always,
            )
            .await;
        written.map_err(|error| format!("writing into {name}: {error}"))?;
        let removed = store.delete(std::slice::from_ref(&key)).await;
        removed.map_err(|error| format!("removing from {name}: {error}"))
    };
    match tokio::time::timeout(PATIENCE, trial).await {
        Ok(Ok(())) => Finding::ok(
            about,
            format!("{name}: listed, written and removed within {} ms", begin.elapsed().as_millis()),
        ),
        Ok(Err(why)) => Finding::fail(about, why).hint("keys that may list, read, write and delete below the project's prefix are needed"),
        Err(_) => Finding::fail(about, format!("{name} does not answer within {PATIENCE:?}")),
    }
}
