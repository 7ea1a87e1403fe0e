//! What is to happen to one file, from what it is here, what it is there, and what it was when both were last in step. Pure.
//!
//! The law: no content is ever lost that was not already replaced on the side where it was. Where both sides changed, one wins and the
//! other is kept as a copy first.

#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::wildcard_enum_match_arm)]

use super::content::Content;
use super::store::Etag;

/// What both sides had in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base<'a> {
    /// Nothing is known.
    None,
    /// This box's stat index: what was here and under which token there.
    Index {
        /// What was here.
        content: &'a Content,
        /// The token of the object.
        etag: &'a Etag,
    },
    /// A fresh clone, unmodified here: a baseline and no edit.
    Clone {
        /// Whether upstream's version is another one than at the manifest's base.
        moved: Moved,
    },
}

/// Whether upstream changed a file since the manifest's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It has the same blob.
    No,
    /// It has another.
    Yes,
}

/// What is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote<'a> {
    /// Nothing, and nobody removed it: it was never there.
    Never,
    /// It was removed there.
    Removed,
    /// The manifest and the object agree.
    Known {
        /// What is in it.
        content: &'a Content,
        /// Its token.
        etag: &'a Etag,
        /// Whether it is what the manifest's Git base has, where there is one.
        edited: Edited,
    },
    /// The object is not the one that the manifest speaks of: somebody else wrote it.
    Foreign {
        /// Its token.
        etag: &'a Etag,
    },
}

/// Whether a file was changed in the box since the manifest's Git base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edited {
    /// It is as the base has it.
    No,
    /// It was changed, or there is no base.
    Yes,
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Both are the same: remember that.
    Adopt,
    /// Leave it here; it will be sent.
    KeepLocal,
    /// Leave it here and send it, after a copy of the store's was kept: both changed.
    KeepLocalCopyRemote,
    /// Bring it here.
    Download,
    /// Bring it here, after a copy of the local one was kept.
    CopyLocalDownload,
    /// Remove it here.
    RemoveLocal,
    /// Remove it here, after a copy was kept.
    CopyLocalRemove,
    /// It was removed here: remove it there.
    RemoveRemote,
    /// It is gone on both sides: forget it.
    Forget,
}

/// Decides about one file.
pub fn decide(local: Option<&Content>, base: &Base<'_>, remote: &Remote<'_>) -> Step {
    match base {
        Base::Index { content, etag } => from_index(local, content, etag, remote),
        Base::Clone { moved } => from_clone(local, *moved, remote),
        Base::None => from_nothing(local, remote),
    }
}

fn from_index(local: Option<&Content>, content: &Content, etag: &Etag, remote: &Remote<'_>) -> Step {
    let here_same = local.is_some_and(|local| local.same(content));
    match (local, remote) {
        (None, Remote::Never | Remote::Removed) => Step::Forget,
        // Never there although it was in step: the object was lost, not removed.
        (Some(_), Remote::Never) => Step::KeepLocal,
        (Some(_), Remote::Removed) if here_same => Step::RemoveLocal,
        (Some(_), Remote::Removed) => Step::KeepLocal,
        (None, Remote::Known { etag: there, .. } | Remote::Foreign { etag: there }) if *there == etag => Step::RemoveRemote,
        // Removed here, edited there: the edit wins.
        (None, Remote::Known { content: there, .. }) if there.same(content) => Step::RemoveRemote,
        (None, Remote::Known { .. } | Remote::Foreign { .. }) => Step::Download,
        (Some(local), Remote::Known { content: there, .. }) if local.same(there) => Step::Adopt,
        (Some(_), Remote::Known { content: there, .. }) if there.same(content) => Step::KeepLocal,
        (Some(_), Remote::Known { etag: there, .. } | Remote::Foreign { etag: there }) if *there == etag => {
            if here_same {
                Step::Nothing
            } else {
                Step::KeepLocal
            }
        }
        (Some(_), Remote::Known { .. } | Remote::Foreign { .. }) if here_same => Step::Download,
        (Some(_), Remote::Known { .. } | Remote::Foreign { .. }) => Step::KeepLocalCopyRemote,
    }
}

fn from_clone(local: Option<&Content>, moved: Moved, remote: &Remote<'_>) -> Step {
    match (local, remote) {
        (None, Remote::Never | Remote::Removed) => Step::Nothing,
        (Some(_), Remote::Never) => Step::KeepLocal,
        (Some(_), Remote::Removed) if moved == Moved::No => Step::RemoveLocal,
        (Some(_), Remote::Removed) => Step::CopyLocalRemove,
        (Some(local), Remote::Known { content, .. }) if local.same(content) => Step::Adopt,
        // Not changed in the box: upstream's newer version stays, also where that is its removal.
        (Some(_), Remote::Known { edited: Edited::No, .. }) => Step::KeepLocal,
        (None, Remote::Known { edited: Edited::No, .. }) => Step::RemoveRemote,
        (None, Remote::Known { .. } | Remote::Foreign { .. }) => Step::Download,
        (Some(_), Remote::Known { .. } | Remote::Foreign { .. }) if moved == Moved::No => Step::Download,
        (Some(_), Remote::Known { .. } | Remote::Foreign { .. }) => Step::CopyLocalDownload,
    }
}

fn from_nothing(local: Option<&Content>, remote: &Remote<'_>) -> Step {
    match (local, remote) {
        (None, Remote::Never | Remote::Removed) => Step::Nothing,
        (None, Remote::Known { .. } | Remote::Foreign { .. }) => Step::Download,
        (Some(_), Remote::Never | Remote::Removed) => Step::KeepLocal,
        (Some(local), Remote::Known { content, .. }) if local.same(content) => Step::Adopt,
        (Some(_), Remote::Known { .. } | Remote::Foreign { .. }) => Step::CopyLocalDownload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::content::Digest;
    use proptest::prelude::*;

    fn content(n: u8) -> Content {
        Content {
            sha256: Digest::of(&[n]),
            size: 1,
            mode: 0o644,
            link: false,
        }
    }

    fn etag(n: u8) -> Etag {
        Etag(n.to_string())
    }

    #[derive(Clone, Debug)]
    enum There {
        Never,
        Removed,
        Known(u8, bool),
        Foreign(u8),
    }

    #[derive(Clone, Debug)]
    enum Was {
        None,
        Index(u8),
        Clone(bool),
    }

    fn there() -> impl Strategy<Value = There> {
        prop_oneof![
            Just(There::Never),
            Just(There::Removed),
            (0_u8..4, any::<bool>()).prop_map(|(n, edited)| There::Known(n, edited)),
            (0_u8..4).prop_map(There::Foreign),
        ]
    }

    fn was() -> impl Strategy<Value = Was> {
        prop_oneof![Just(Was::None), (0_u8..4).prop_map(Was::Index), any::<bool>().prop_map(Was::Clone)]
    }

    fn run(local: Option<u8>, was: &Was, there: &There) -> Step {
        let (here, base_content, base_etag) = (
            local.map(content),
            content(if let Was::Index(n) = was { *n } else { 0 }),
            etag(if let Was::Index(n) = was { *n } else { 0 }),
        );
        let (there_content, there_etag) = match there {
            There::Known(n, _) | There::Foreign(n) => (content(*n), etag(*n)),
            There::Never | There::Removed => (content(0), etag(0)),
        };
        let base = match was {
            Was::None => Base::None,
            Was::Index(_) => Base::Index {
                content: &base_content,
                etag: &base_etag,
            },
            Was::Clone(moved) => Base::Clone {
                moved: if *moved { Moved::Yes } else { Moved::No },
            },
        };
        let remote = match there {
            There::Never => Remote::Never,
            There::Removed => Remote::Removed,
            There::Known(_, edited) => Remote::Known {
                content: &there_content,
                etag: &there_etag,
                edited: if *edited { Edited::Yes } else { Edited::No },
            },
            There::Foreign(_) => Remote::Foreign { etag: &there_etag },
        };
        decide(here.as_ref(), &base, &remote)
    }

    proptest! {
        #[test]
        fn nothing_is_lost_on_either_side(local in proptest::option::of(0_u8..4), was in was(), there in there()) {
            let step = run(local, &was, &there);
            let there_content = match there { There::Known(n, _) | There::Foreign(n) => Some(n), There::Never | There::Removed => None };
            if let Some(local) = local {
                let replaced_here = matches!(step, Step::Download | Step::RemoveLocal);
                let in_step_before = match was { Was::Index(n) => n == local, Was::Clone(_) => true, Was::None => false };
                prop_assert!(!replaced_here || in_step_before, "local work would be lost: {step:?}");
            } else {
                prop_assert!(!matches!(step, Step::KeepLocal | Step::KeepLocalCopyRemote | Step::RemoveLocal | Step::CopyLocalRemove | Step::Adopt | Step::CopyLocalDownload));
            }
            if let Some(remote) = there_content {
                let replaced_there = matches!(step, Step::KeepLocal | Step::RemoveRemote);
                let known_before = match was {
                    Was::Index(n) => n == remote,
                    Was::Clone(_) => matches!(there, There::Known(_, false)),
                    Was::None => false,
                };
                prop_assert!(!replaced_there || known_before, "foreign work would be lost: {step:?}");
                prop_assert!(step != Step::Forget);
            } else {
                prop_assert!(!matches!(step, Step::Download | Step::RemoveRemote | Step::Adopt | Step::KeepLocalCopyRemote | Step::CopyLocalDownload));
            }
        }

        #[test]
        fn what_is_in_step_stays_so(n in 0_u8..4, edited in any::<bool>()) {
            let step = run(Some(n), &Was::Index(n), &There::Known(n, edited));
            prop_assert!(matches!(step, Step::Adopt | Step::Nothing));
        }
    }

    #[test]
    fn a_clone_is_a_baseline() {
        let known = |edited| There::Known(1, edited);
        assert_eq!(run(Some(2), &Was::Clone(true), &known(false)), Step::KeepLocal);
        assert_eq!(run(Some(2), &Was::Clone(false), &known(true)), Step::Download);
        assert_eq!(run(Some(2), &Was::Clone(true), &known(true)), Step::CopyLocalDownload);
        assert_eq!(run(Some(2), &Was::Clone(false), &There::Removed), Step::RemoveLocal);
        assert_eq!(run(Some(2), &Was::Clone(true), &There::Removed), Step::CopyLocalRemove);
        assert_eq!(run(None, &Was::Clone(true), &known(false)), Step::RemoveRemote);
        assert_eq!(run(Some(1), &Was::Clone(false), &known(true)), Step::Adopt);
    }
}
