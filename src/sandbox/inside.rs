//! What the binary inside a sandbox is asked, and how it answers: `sandkeep sandbox inside …`, one JSON document a line.
//!
//! Both ends are this program, perhaps of two versions: fields are added, never renamed, and unknown ones are passed over.

use super::fault::{Code, Fault};
use super::look::Unsaved;
use super::provider::{Command, Exit, Provider, Sandbox, Stream, hear};
use super::record::Record;
use super::verdict::Until;
use crate::control::document::StatusDocument;
use crate::unit::duration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One line of `inside await`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Awaited {
    /// A unit's readiness changed.
    Note {
        /// For people.
        line: String,
    },
    /// It is there. The last line.
    There {
        /// As it is then.
        status: Box<StatusDocument>,
    },
    /// It will not come. The last line.
    Never {
        /// Why, with the unit's last lines.
        fault: Fault,
        /// As it is then.
        status: Option<Box<StatusDocument>>,
    },
}

/// The answer of `inside check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The dev server's port, where it is known.
    pub port: Option<u16>,
    /// The units that will run.
    pub units: Vec<String>,
    /// What was found out about the project, and what is odd.
    pub notes: Vec<String>,
}

/// The answer of `inside reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether anything differed.
    pub changed: bool,
}

/// The answer of `inside report`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reported {
    /// `None` when no supervisor answers.
    pub status: Option<StatusDocument>,
    /// `None` where the project is no checkout.
    pub unsaved: Option<Unsaved>,
}

/// Our binary in one sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inside<'a> {
    pub(super) provider: &'a dyn Provider,
    pub(super) sandbox: &'a Sandbox,
    pub(super) record: &'a Record,
}

impl Inside<'_> {
    /// The binary with these arguments, about its instance.
    pub(super) fn command<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let head = [self.record.binary(), "--instance".to_owned(), self.record.instance.clone()];
        let rest = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        Command::new(head.into_iter().chain(rest)).in_directory(&self.record.directory)
    }

    fn inside<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let rest = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        self.command(["sandbox".to_owned(), "inside".to_owned()].into_iter().chain(rest))
    }

    /// Runs a command whose answer is one document.
    pub(super) async fn ask<T: DeserializeOwned>(&self, command: &Command, what: &str) -> Result<T, Fault> {
        let (exit, heard) = hear(self.provider, self.sandbox, command).await?;
        if !exit.is_success() {
            let errors = String::from_utf8_lossy(&heard.stderr).into_owned();
            return Err(failed(what, exit, &errors));
        }
        serde_json::from_slice(&heard.stdout)
            .map_err(|error| Fault::new(Code::CommandFailed, format!("{what}: reading the answer: {error}")).output(heard.both()))
    }

    /// Checks the configuration of `up`'s arguments with the environment that the script on standard input makes.
    pub(super) async fn check(&self, script: super::provider::Secret) -> Result<Checked, Fault> {
        let mut command = self.inside(["check", "--"]);
        command.argv.extend(self.record.up.iter().cloned());
        self.ask(&with_environment(command, script), "checking the configuration").await
    }

    /// Has the supervisor read the configuration of `up`'s arguments.
    pub(super) async fn reload(&self) -> Result<Reloaded, Fault> {
        let ends = self.record.expires_at.map(|at| format!("--expires-at={at}"));
        let arguments = [Some("reload".to_owned()), ends, Some("--".to_owned())];
        let mut command = self.inside(arguments.into_iter().flatten());
        command.argv.extend(self.record.up.iter().cloned());
        self.ask(&command, "reading the configuration again").await
    }

    /// How the supervisor does, and what would be lost.
    pub(super) async fn report(&self) -> Result<Reported, Fault> {
        let command = self.inside(["report", "--directory", &self.record.directory]);
        self.ask(&command, "asking how the sandbox does").await
    }

    /// Tells the supervisor when the sandbox ends.
    pub(super) async fn deadline(&self, at: jiff::Timestamp) -> Result<(), Fault> {
        let command = self.inside(["deadline".to_owned(), at.to_string()]);
        let (exit, heard) = hear(self.provider, self.sandbox, &command).await?;
        if exit.is_success() {
            return Ok(());
        }
        Err(failed(
            "telling the supervisor its deadline",
            exit,
            &String::from_utf8_lossy(&heard.stderr),
        ))
    }

    /// Waits inside, telling how it goes on.
    pub(super) async fn wait(&self, until: Until, limit: Duration, note: &mut (dyn FnMut(String) + Send)) -> Result<StatusDocument, Fault> {
        let word = match until {
            Until::Installed => "installed",
            Until::Ready => "ready",
        };
        let command = self
            .inside(["await", word, "--timeout", &duration::format(limit)])
            .within(limit + Duration::from_secs(60));
        let mut lines = Lines::default();
        let mut last = None;
        let mut errors = Vec::new();
        let mut take = |stream: Stream, chunk: &[u8]| match stream {
            Stream::Stderr => errors.extend_from_slice(&chunk[..chunk.len().min(64 << 10)]),
            Stream::Stdout => lines.take(chunk, &mut |line| match serde_json::from_slice(line) {
                Ok(Awaited::Note { line }) => note(line),
                Ok(other) => last = Some(other),
                Err(_) => {}
            }),
        };
        let exit = self.provider.run(self.sandbox, &command, &mut take).await?;
        match last {
            Some(Awaited::There { status }) => Ok(*status),
            Some(Awaited::Never { fault, .. }) => Err(fault),
            Some(Awaited::Note { .. }) | None => Err(failed("waiting for the project", exit, &String::from_utf8_lossy(&errors))),
        }
    }
}

/// A command that gets its environment from the script on standard input, and then an empty input.
pub(super) fn with_environment(command: Command, script: super::provider::Secret) -> Command {
    let Command {
        argv,
        directory,
        limit,
        repeat,
        ..
    } = command;
    let head = ["/bin/sh", "-c", r#"eval "$(cat)"; exec "$@" </dev/null"#, "environment"];
    Command {
        argv: head.into_iter().map(str::to_owned).chain(argv).collect(),
        directory,
        stdin: Some(script),
        limit,
        repeat,
    }
}

/// An exit code of the binary inside, in our words.
pub(super) fn failed(what: &str, exit: Exit, errors: &str) -> Fault {
    let said = errors.trim();
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("error: "))
        .or_else(|| said.lines().last());
    let why = line.map_or_else(|| format!("exit code {}", exit.0), str::to_owned);
    let hint = said.lines().find_map(|line| line.strip_prefix("hint: "));
    let code = match exit.0 {
        2 => Code::InvalidConfig,
        3 => Code::NoSupervisor,
        126 | 127 => Code::MissingProgram,
        _ => Code::CommandFailed,
    };
    let mut fault = Fault::new(code, format!("{what}: {why}")).output(said);
    fault.hint = hint.map(str::to_owned);
    fault
}

/// Lines out of chunks.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Takes a chunk and hands on the lines that are whole.
    pub(super) fn take(&mut self, chunk: &[u8], line: &mut dyn FnMut(&[u8])) {
        self.0.extend_from_slice(chunk);
        let mut begin = 0;
        while let Some(length) = memchr::memchr(b'\n', &self.0[begin..]) {
            line(&self.0[begin..begin + length]);
            begin += length + 1;
        }
        self.0.drain(..begin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole() {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for chunk in ["a", "b\nc\n\nd", "", "\n"] {
            lines.take(chunk.as_bytes(), &mut |line| all.push(String::from_utf8(line.to_vec()).unwrap()));
        }
        assert_eq!(all, ["ab", "c", "", "d"]);
    }

    #[test]
    fn what_the_binary_says_is_passed_on_in_one_line() {
        let fault = failed("checking", Exit(2), "warning: x\nerror: a.toml:1:2: no\n  1 | y\nhint: do\n");
        assert_eq!(
            (fault.code, fault.message.as_str(), fault.hint.as_deref()),
            (Code::InvalidConfig, "checking: a.toml:1:2: no", Some("do"))
        );
        assert_eq!(failed("x", Exit(127), "").message, "x: exit code 127");
    }
}
