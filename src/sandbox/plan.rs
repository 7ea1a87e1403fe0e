//! What a start has to do, decided without doing anything: from what is wanted and what is known follows the next task.
//!
//! Nothing is remembered from task to task but [`Known`], which is made by looking at the sandbox. A start that was cut off anywhere looks
//! again and goes on with the first task that is missing; a task whose result is there is not done a second time.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::wildcard_enum_match_arm)]

use super::fault::{Code, Fault};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The steps of a start, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The sandbox is made or woken, its user, home and directory found out, the repository cloned.
    Create,
    /// Claude Code is found or installed.
    Claude,
    /// The binary and the configuration are brought in.
    Upload,
    /// The configuration is checked together with the environment.
    Environment,
    /// The supervisor is started, or reads its configuration anew.
    Start,
    /// The supervisor answers.
    Check,
    /// The project is installed.
    Project,
    /// Every required unit is ready.
    Ready,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Claude,
        Self::Upload,
        Self::Environment,
        Self::Start,
        Self::Check,
        Self::Project,
        Self::Ready,
    ];

    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Claude => "claude",
            Self::Upload => "upload",
            Self::Environment => "environment",
            Self::Start => "start",
            Self::Check => "check",
            Self::Project => "project",
            Self::Ready => "ready",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a start turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The sandbox, or the project in it, was not there, or not whole, before.
    Created,
    /// All was there but a running supervisor.
    Resumed,
    /// The supervisor ran, with another configuration.
    Reloaded,
    /// All was as it should be.
    Running,
}

impl Action {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Resumed => "resumed",
            Self::Reloaded => "reloaded",
            Self::Running => "running",
        }
    }
}

/// What is wanted, as far as it decides what has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// The project comes from a repository.
    pub repo: bool,
    /// Claude Code has to be there.
    pub claude: bool,
}

/// How the sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// There is none.
    Absent,
    /// It stands still.
    Stopped,
    /// Commands can be run in it.
    Running,
}

/// What is where the project should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checkout {
    /// Nothing, or an empty directory.
    Missing,
    /// A checkout of another repository, or files that are none.
    Foreign,
    /// The project.
    Present,
}

/// What is where our binary should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// Nothing.
    Missing,
    /// Another one.
    Other,
    /// The very same.
    Same,
}

/// What is in a sandbox that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The project.
    pub checkout: Checkout,
    /// Claude Code is there.
    pub claude: bool,
    /// Our binary.
    pub binary: Binary,
    /// A supervisor of this sandbox answers.
    pub supervisor: bool,
}

/// What is known, and what this start did that leaves nothing to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// How the sandbox is.
    pub presence: Presence,
    /// What is in it; `None` before it was looked into.
    pub inside: Option<Inside>,
    /// The configuration was brought in.
    pub configured: bool,
    /// The environment was checked.
    pub environment: bool,
    /// The supervisor was started, or has read the configuration.
    pub applied: bool,
    /// The supervisor answered.
    pub answered: bool,
    /// The project is installed.
    pub installed: bool,
    /// Every required unit is ready.
    pub ready: bool,
}

impl Known {
    /// Of a sandbox that was not looked into.
    pub fn new(presence: Presence) -> Self {
        Self {
            presence,
            inside: None,
            configured: false,
            environment: false,
            applied: false,
            answered: false,
            installed: false,
            ready: false,
        }
    }

    /// What is known after a task was done.
    #[must_use]
    pub fn after(mut self, task: Task, seen: Option<Inside>) -> Self {
        match task {
            Task::Make | Task::Wake => self.presence = Presence::Running,
            Task::Look => self.inside = seen,
            Task::Clone => self.change(|inside| inside.checkout = Checkout::Present),
            Task::InstallClaude => self.change(|inside| inside.claude = true),
            Task::Upload => self.change(|inside| inside.binary = Binary::Same),
            Task::Configure => self.configured = true,
            Task::CheckEnvironment => self.environment = true,
            Task::Launch => {
                self.change(|inside| inside.supervisor = true);
                self.applied = true;
            }
            Task::Reload => self.applied = true,
            Task::AwaitAnswer => self.answered = true,
            Task::AwaitInstalled => self.installed = true,
            Task::AwaitReady => self.ready = true,
        }
        self
    }

    fn change(&mut self, change: impl FnOnce(&mut Inside)) {
        if let Some(inside) = &mut self.inside {
            change(inside);
        }
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Make the sandbox.
    Make,
    /// Bring it back.
    Wake,
    /// Find out what is in it.
    Look,
    /// Clone the repository.
    Clone,
    /// Install Claude Code.
    InstallClaude,
    /// Bring the binary in.
    Upload,
    /// Bring the configuration in.
    Configure,
    /// Check the configuration together with the environment.
    CheckEnvironment,
    /// Start the supervisor.
    Launch,
    /// Have the supervisor read the configuration.
    Reload,
    /// Wait until the supervisor answers.
    AwaitAnswer,
    /// Wait until the project is installed.
    AwaitInstalled,
    /// Wait until every required unit is ready.
    AwaitReady,
}

impl Task {
    /// The step that it belongs to.
    pub fn step(self) -> Step {
        match self {
            Self::Make | Self::Wake | Self::Look | Self::Clone => Step::Create,
            Self::InstallClaude => Step::Claude,
            Self::Upload | Self::Configure => Step::Upload,
            Self::CheckEnvironment => Step::Environment,
            Self::Launch | Self::Reload => Step::Start,
            Self::AwaitAnswer => Step::Check,
            Self::AwaitInstalled => Step::Project,
            Self::AwaitReady => Step::Ready,
        }
    }
}

/// The next thing to do; `None` when all is as it should be.
///
/// # Errors
/// When what is there stands in the way: nothing of it is overwritten.
pub fn next(goal: Goal, known: &Known) -> Result<Option<Task>, Fault> {
    match known.presence {
        Presence::Absent => return Ok(Some(Task::Make)),
        Presence::Stopped => return Ok(Some(Task::Wake)),
        Presence::Running => {}
    }
    let Some(inside) = known.inside else {
        return Ok(Some(Task::Look));
    };
    match (inside.checkout, goal.repo) {
        (Checkout::Missing, true) => return Ok(Some(Task::Clone)),
        (Checkout::Missing, false) => {
            return Err(Fault::new(Code::BadRequest, "there is no project in the sandbox").hint("`--repo URL` says where it comes from"));
        }
        (Checkout::Foreign, _) => {
            return Err(Fault::new(Code::DirectoryTaken, "something else is where the project should be")
                .hint("take another `--name`, or another `--directory`"));
        }
        (Checkout::Present, _) => {}
    }
    if goal.claude && !inside.claude {
        return Ok(Some(Task::InstallClaude));
    }
    if !inside.supervisor && inside.binary != Binary::Same {
        return Ok(Some(Task::Upload));
    }
    let rest = [
        (known.configured, Task::Configure),
        (known.environment || inside.supervisor, Task::CheckEnvironment),
        (inside.supervisor, Task::Launch),
        (known.applied, Task::Reload),
        (known.answered, Task::AwaitAnswer),
        (known.installed, Task::AwaitInstalled),
        (known.ready, Task::AwaitReady),
    ];
    Ok(rest.into_iter().find(|(done, _)| !done).map(|(_, task)| task))
}

/// What a start turned out to be: from the tasks it did, whether an earlier one had come to its end, and whether the supervisor took over
/// something new.
pub fn action(done: &[Task], complete_before: bool, changed: bool) -> Action {
    let did = |task| done.contains(&task);
    if !complete_before || did(Task::Make) || did(Task::Clone) {
        Action::Created
    } else if did(Task::Launch) {
        Action::Resumed
    } else if changed {
        Action::Reloaded
    } else {
        Action::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A sandbox that does what it is told.
    #[derive(Clone, Copy, Debug)]
    struct World {
        presence: Presence,
        inside: Inside,
        made: u32,
        launched: u32,
    }

    impl World {
        fn perform(&mut self, task: Task) {
            let inside = &mut self.inside;
            match task {
                Task::Make => {
                    assert_eq!(self.presence, Presence::Absent, "made twice");
                    self.presence = Presence::Running;
                    self.made += 1;
                }
                Task::Wake => {
                    assert_eq!(self.presence, Presence::Stopped);
                    self.presence = Presence::Running;
                }
                Task::Clone => {
                    assert_eq!(inside.checkout, Checkout::Missing, "files would be overwritten");
                    inside.checkout = Checkout::Present;
                }
                Task::InstallClaude => inside.claude = true,
                Task::Upload => {
                    assert!(!inside.supervisor, "what runs is upgraded, not replaced");
                    inside.binary = Binary::Same;
                }
                Task::Launch => {
                    assert!(!inside.supervisor, "started twice");
                    assert_eq!((inside.checkout, inside.binary), (Checkout::Present, Binary::Same));
                    inside.supervisor = true;
                    self.launched += 1;
                }
                Task::Reload | Task::AwaitAnswer | Task::AwaitInstalled | Task::AwaitReady => assert!(inside.supervisor),
                Task::Look | Task::Configure | Task::CheckEnvironment => {}
            }
        }

        /// Starts, and is cut off before, or right after, the task of this number. Returns what was done; `None` when it was refused.
        fn start(&mut self, goal: Goal, cut: Option<(usize, bool)>) -> Option<Vec<Task>> {
            let mut known = Known::new(self.presence);
            let mut done = Vec::new();
            while let Some(task) = next(goal, &known).ok()? {
                if cut == Some((done.len(), false)) {
                    return Some(done);
                }
                self.perform(task);
                if cut == Some((done.len(), true)) {
                    return Some(done);
                }
                known = known.after(task, Some(self.inside));
                done.push(task);
                assert!(done.len() < 20, "{done:?}");
            }
            Some(done)
        }
    }

    fn world() -> impl Strategy<Value = World> {
        let presence = prop_oneof![Just(Presence::Absent), Just(Presence::Stopped), Just(Presence::Running)];
        let checkout = prop_oneof![Just(Checkout::Missing), Just(Checkout::Foreign), Just(Checkout::Present)];
        let binary = prop_oneof![Just(Binary::Missing), Just(Binary::Other), Just(Binary::Same)];
        (presence, checkout, any::<bool>(), binary, any::<bool>()).prop_map(|(presence, checkout, claude, binary, supervisor)| {
            let fresh = presence == Presence::Absent;
            World {
                presence,
                inside: Inside {
                    checkout: if fresh { Checkout::Missing } else { checkout },
                    claude: claude && !fresh,
                    binary: if fresh { Binary::Missing } else { binary },
                    supervisor: supervisor && presence == Presence::Running && binary != Binary::Missing && checkout == Checkout::Present,
                },
                made: 0,
                launched: 0,
            }
        })
    }

    proptest! {
        #[test]
        fn cut_off_anywhere_and_called_again_it_ends_with_all_of_it(
            mut world in world(), claude: bool, cuts in prop::collection::vec((0_usize..14, any::<bool>()), 0..4)
        ) {
            let goal = Goal { repo: true, claude };
            let foreign = world.inside.checkout == Checkout::Foreign && world.presence != Presence::Absent;
            for cut in cuts {
                world.start(goal, Some(cut));
            }
            let done = world.start(goal, None);
            prop_assert_eq!(done.is_none(), foreign);
            prop_assert!(world.made <= 1 && world.launched <= 1);
            if let Some(done) = done {
                prop_assert!(world.inside.supervisor && (world.inside.claude || !claude));
                let unique: std::collections::BTreeSet<_> = done.iter().collect();
                prop_assert_eq!(unique.len(), done.len(), "each task once");
                prop_assert!(done.is_sorted_by_key(|task| task.step()), "{:?}", done);
                prop_assert_eq!(world.start(goal, None).map(|again| action(&again, true, false)), Some(Action::Running));
            }
        }
    }

    #[test]
    fn what_a_start_was_is_told_by_what_it_did() {
        use Task::{Clone, Launch, Look, Make, Reload, Wake};
        for (done, complete, changed, expected) in [
            (&[Make, Look, Clone, Launch][..], false, false, Action::Created),
            (&[Look, Launch], false, false, Action::Created),
            (&[Look, Clone, Launch], true, false, Action::Created),
            (&[Wake, Look, Launch], true, false, Action::Resumed),
            (&[Look, Reload], true, true, Action::Reloaded),
            (&[Look, Reload], true, false, Action::Running),
        ] {
            assert_eq!(action(done, complete, changed), expected, "{done:?}");
        }
    }

    #[test]
    fn without_a_repository_the_project_has_to_be_there() {
        let mut known = Known::new(Presence::Running);
        known.inside = Some(Inside {
            checkout: Checkout::Missing,
            claude: true,
            binary: Binary::Same,
            supervisor: false,
        });
        let goal = Goal {
            repo: false,
            claude: false,
        };
        assert_eq!(next(goal, &known).unwrap_err().code, Code::BadRequest);
        known.inside = known.inside.map(|inside| Inside {
            checkout: Checkout::Present,
            ..inside
        });
        assert_eq!(next(goal, &known).unwrap(), Some(Task::Configure));
    }
}
