//! What becomes of a start that failed: what it made goes, and nothing else.

use super::run::Run;
use super::{OnFailure, may_pass};
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::plan::Task;
use crate::sandbox::provider::{Command, Provider, Sandbox, State, Wake, hear};
use crate::sandbox::record::{Made, Record};
use std::time::Duration;

/// How long what runs may take to end.
const DOWN_WITHIN: Duration = Duration::from_secs(15);

/// Cleans up, writes the fault down, and gives it back as it is to be told.
pub(super) async fn after(run: &mut Run<'_>, fault: Fault) -> Fault {
    let mut fault = fault.in_step(run.step());
    fault.message = run.mask(&fault.message.replace('\n', " "));
    fault.output = fault.output.map(|output| run.mask(&output));
    fault.hint.get_or_insert_with(|| what_to_do(fault.code).to_owned());
    run.record.fault = Some(fault.clone());
    if run.request.on_failure == OnFailure::CleanUp && !may_pass(fault.code) {
        match clean_up(run).await {
            Ok(true) => {
                // Nothing is left that the record could be about.
                let _ = run.records.forget(&run.record.name);
                return fault;
            }
            Ok(false) => {}
            Err(left) => fault.hint = Some(format!("something is left in the sandbox, since {left}")),
        }
    }
    let _ = run.records.save(&run.record);
    fault
}

/// What to do where nothing better is known.
fn what_to_do(code: Code) -> &'static str {
    match code {
        Code::InvalidConfig => "mend the configuration, and run the same again; `sandkeep check` tells all that is wrong with a file",
        Code::Unreachable | Code::Lost | Code::Busy => "run the same again: it goes on where it was",
        Code::Quota | Code::ProviderFailed => "wait a while, and run the same again",
        _ => "the output tells more; `--keep` leaves everything as it is, to be looked at",
    }
}

/// Answers whether nothing of the sandbox is left to us.
async fn clean_up(run: &mut Run<'_>) -> Result<bool, Fault> {
    if run.sandbox.is_none() && run.record.made.sandbox {
        run.sandbox = run.provider.find(&run.record.name, Wake::No).await?;
    }
    let first = !run.complete_before;
    let Some(sandbox) = run.sandbox.clone() else { return Ok(first) };
    if sandbox.state == State::Running && (run.done.contains(&Task::Launch) || first && run.record.made.supervisor) {
        down(run.provider, &sandbox, &run.record, DOWN_WITHIN).await?;
    }
    if first {
        remove(run.provider, &sandbox, &run.record).await?;
    }
    Ok(first)
}

/// Ends a supervisor with everything in it; none is fine.
pub(in crate::sandbox) async fn down(provider: &dyn Provider, sandbox: &Sandbox, record: &Record, limit: Duration) -> Result<bool, Fault> {
    const DOWN: &str = r#"[ -x "$1" ] || exit 3
"$1" --instance "$2" status --json >/dev/null 2>&1 </dev/null || exit 3
exec "$1" --instance "$2" down --timeout "$3""#;
    if record.place.is_empty() {
        return Ok(false);
    }
    let command = Command::shell(DOWN)
        .arg("down")
        .arg(record.binary())
        .arg(&record.instance)
        .arg(crate::unit::duration::format(limit))
        .within(limit + Duration::from_secs(45));
    let (exit, heard) = hear(provider, sandbox, &command).await?;
    match exit.0 {
        0 => Ok(true),
        3 => Ok(false),
        _ => Err(crate::sandbox::inside::failed(
            "stopping everything in the sandbox",
            exit,
            &heard.both(),
        )),
    }
}

/// Removes what was made by us.
pub(in crate::sandbox) async fn remove(provider: &dyn Provider, sandbox: &Sandbox, record: &Record) -> Result<(), Fault> {
    let Made {
        sandbox: made,
        checkout,
        place,
        ..
    } = record.made;
    // Of ours also the directory above, when no other sandbox has a place in it.
    let ours = if place { record.place.clone() } else { String::new() };
    let project = if checkout { record.directory.clone() } else { String::new() };
    if !(ours.len() < 2 && project.len() < 2) && sandbox.state == State::Running {
        const REMOVE: &str = r#"[ -z "$2" ] || rm -rf "$2" "$2".clone-*
[ -z "$1" ] || { rm -rf "$1"; rmdir "$(dirname "$1")" 2>/dev/null; }
exit 0"#;
        let command = Command::shell(REMOVE).arg("remove").arg(ours).arg(project);
        hear(provider, sandbox, &command).await?;
    }
    if made {
        provider.stop(sandbox).await?;
        provider.remove(sandbox).await?;
    }
    Ok(())
}
