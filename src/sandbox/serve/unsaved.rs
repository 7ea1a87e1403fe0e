//! What would be lost with a sandbox, in words.

use crate::sandbox::look::Unsaved;

/// A line for each kind of work that is nowhere else.
pub(super) fn words(unsaved: Unsaved) -> Vec<String> {
    let count = |number: u64, one: &str, many: &str| format!("{number} {}", if number == 1 { one } else { many });
    let mut words = Vec::new();
    if unsaved.unpushed_commits > 0 {
        words.push(count(
            unsaved.unpushed_commits,
            "commit is on no remote",
            "commits are on no remote",
        ));
    }
    match unsaved.unsynced_files {
        Some(0) => {}
        Some(files) => words.push(count(files, "file is not in the store yet", "files are not in the store yet")),
        None if unsaved.changed_files > 0 => {
            let files = count(unsaved.changed_files, "file differs", "files differ");
            words.push(format!("{files} from the last commit, and sync is off"));
        }
        None => {}
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_lost_is_said() {
        let unsaved = |unpushed_commits, changed_files, unsynced_files| Unsaved {
            unpushed_commits,
            changed_files,
            unsynced_files,
        };
        assert!(words(unsaved(0, 4, Some(0))).is_empty());
        let said = words(unsaved(1, 4, None));
        assert_eq!(
            said,
            ["1 commit is on no remote", "4 files differ from the last commit, and sync is off"]
        );
        assert_eq!(words(unsaved(0, 0, Some(2))), ["2 files are not in the store yet"]);
    }
}
