//! Whether the store can be read and written.

use super::{Finding, Patient};

pub(super) async fn findings(patient: &Patient) -> Vec<Finding> {
    let store = patient.config.as_ref().and_then(|config| config.sync.store.as_deref());
    let Some(path) = store.and_then(|store| store.strip_prefix("file://")) else {
        return Vec::new();
    };
    vec![directory(path).await]
}

async fn directory(path: &str) -> Finding {
    let about = "store access";
    let probe = format!("{path}/.sandkeep-doctor-{}", std::process::id());
    match tokio::fs::write(&probe, b"").await {
        Ok(()) => {
            let _ = tokio::fs::remove_file(&probe).await;
            Finding::ok(about, format!("{path} can be written"))
        }
        Err(error) => Finding::fail(about, format!("writing into {path}: {error}")),
    }
}
