//! `sandkeep agent`.

mod client;
mod secrets;

use super::{CliError, Global};
use crate::agent::door::Submission;
use crate::agent::leader;
use crate::agent::run::{self, Given, RunError};
use crate::agent::settings::Options;
use crate::host::runtime_dir::Places;
use crate::ordered::IntoMap;
use crate::tasks;
use crate::unit::{self, WorkerConfig};
use client::Client;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// EX_CONFIG of sysexits.h: another start would end the same.
const FINAL: u8 = 78;

/// The agent worker, also by hand.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Runs the worker
    Run(RunArgs),
    /// Asks claude and shows its answer
    Ask(AskArgs),
    /// Answers a question of claude's
    Answer(AnswerArgs),
    /// Ends a prompt
    Cancel(CancelArgs),
    /// Makes claude the leader of a session of its own
    #[command(hide = true)]
    Lead(LeadArgs),
}

#[derive(clap::Args, Debug)]
struct RunArgs {
    /// The configuration, where the supervisor does not hand one over
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct AskArgs {
    /// The prompt; `-` or nothing reads it from standard input
    #[arg(value_name = "PROMPT")]
    text: Option<String>,
    /// The conversation
    #[arg(long, value_name = "NAME", default_value = "main")]
    session: String,
    /// An id of your own: asking again with the same id shows the same answer
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Prints the events, one JSON object a line
    #[arg(long)]
    json: bool,
    /// Prints the prompt's id and does not wait
    #[arg(long, conflicts_with = "json")]
    detach: bool,
    /// Another model
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Another permission mode
    #[arg(long, value_name = "MODE")]
    permission_mode: Option<String>,
    /// At most so many rounds with the model
    #[arg(long, value_name = "N")]
    max_turns: Option<u64>,
    /// At most so much money for this prompt
    #[arg(long, value_name = "USD")]
    max_budget_usd: Option<f64>,
    /// At most so much time
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
}

#[derive(clap::Args, Debug)]
struct AnswerArgs {
    /// The prompt that asks
    #[arg(value_name = "ID")]
    id: String,
    /// Which of its questions, when there are more
    #[arg(long, value_name = "QUESTION")]
    question: Option<String>,
    /// Lets claude do it
    #[arg(long, conflicts_with = "deny")]
    allow: bool,
    /// Does not let it, and says why
    #[arg(long, value_name = "WHY", num_args = 0..=1, default_missing_value = "the user said no")]
    deny: Option<String>,
    /// Keeps the rule that claude suggested
    #[arg(long, requires = "allow")]
    remember: bool,
    /// An answer to a question of claude's
    #[arg(long = "answer", value_name = "QUESTION=ANSWER", conflicts_with = "deny")]
    answers: Vec<String>,
}

#[derive(clap::Args, Debug)]
struct CancelArgs {
    /// The prompt
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(clap::Args, Debug)]
struct LeadArgs {
    parent: u32,
    #[arg(last = true)]
    command: Vec<OsString>,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    match args.verb {
        Verb::Run(args) => run_worker(args, global),
        Verb::Ask(args) => ask(args, global),
        Verb::Answer(args) => answer(args, global),
        Verb::Cancel(args) => cancel(&args, global),
        Verb::Lead(args) => {
            let error = leader::become_command(args.parent, &args.command);
            let name = args.command.first().map(|name| name.display().to_string()).unwrap_or_default();
            Err(CliError::failed(format!("starting {name}: {error}")))
        }
    }
}

fn run_worker(args: RunArgs, global: &Global) -> Result<ExitCode, CliError> {
    let secrets = secrets::take().map_err(|error| CliError::failed(format!("taking the secrets out of the environment: {error}")))?;
    crate::host::become_private();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false);
    subscriber.init();
    // The first to install one wins; a second is refused, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let environment = std::env::vars_os().into_map();
    let control = std::env::var_os("SANDKEEP_SOCKET").map(PathBuf::from);
    let paths = global.paths()?;
    let beside = control
        .as_deref()
        .and_then(std::path::Path::parent)
        .map_or_else(|| paths.runtime.clone(), PathBuf::from);
    let given = Given {
        config: worker_config(args, &paths)?,
        secrets,
        environment,
        control,
        door: beside.join("agent.sock"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("starting the runtime: {error}")))?;
    match tasks::block_on(&runtime, run::run(given)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(worker_error(&error)),
    }
}

fn worker_error(error: &RunError) -> CliError {
    CliError {
        message: error.to_string(),
        hint: error.hint().map(Into::into),
        code: if error.is_final() { FINAL } else { 1 },
    }
}

fn worker_config(args: RunArgs, paths: &Places) -> Result<WorkerConfig, CliError> {
    if let Ok(json) = std::env::var(WorkerConfig::VARIABLE) {
        return WorkerConfig::from_json(&json).map_err(|error| CliError {
            code: FINAL,
            ..CliError::usage(format!("reading {}: {error}", WorkerConfig::VARIABLE))
        });
    }
    let source = match args.config {
        Some(file) => unit::Source::File(file),
        None => unit::Source::in_directory(std::path::Path::new(".")),
    };
    let environment = std::env::vars().into_map();
    let flags = unit::Flags {
        without_units: true,
        ..unit::Flags::default()
    };
    let loaded = unit::load(&source, &flags, &environment).map_err(|diagnostics| CliError::usage(diagnostics.to_string()))?;
    Ok(WorkerConfig::new(&loaded.config, &paths.state))
}

fn ask(args: AskArgs, global: &Global) -> Result<ExitCode, CliError> {
    let text = match args.text.as_deref() {
        None | Some("-") => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| CliError::failed(format!("reading the prompt: {error}")))?;
            text
        }
        Some(text) => text.to_owned(),
    };
    let timeout = args.timeout.as_deref().map(unit::duration::parse).transpose();
    let timeout = timeout.map_err(|why| CliError::usage(format!("--timeout: {why}")))?;
    let submission = Submission {
        id: args.id,
        session: Some(args.session),
        text,
        options: Options {
            model: args.model,
            permission_mode: args.permission_mode,
            max_turns: args.max_turns,
            max_budget_usd: args.max_budget_usd,
            timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            ..Options::default()
        },
    };
    let client = Client::new(global)?;
    let Submission {
        id,
        session,
        text,
        options,
    } = submission;
    let entry = client.post(
        "/v1/agent/prompts",
        &json!({"id": id, "session": session, "text": text, "options": options}),
    )?;
    let id = entry["id"].as_str().unwrap_or_default().to_owned();
    if args.detach {
        print(&format!("{id}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut shown = Shown::default();
    client
        .events(&id, |event| {
            if args.json {
                print(&format!("{event}\n"));
            } else {
                shown.show(&id, event);
            }
            (event["type"] == "end").then(|| event["data"].clone())
        })
        .map(|end| {
            if end["status"] == "done" {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        })
}

/// What a person has seen of an answer.
#[derive(Default)]
struct Shown {
    wrote: bool,
    text_seen: bool,
}

impl Shown {
    fn show(&mut self, id: &str, event: &Value) {
        let data = &event["data"];
        match event["type"].as_str().unwrap_or_default() {
            "text" => {
                self.text_seen = true;
                self.write(data["text"].as_str().unwrap_or_default());
            }
            "message" => self.show_message(data),
            "question" => self.line(&format!(
                "? {} {}\n  `sandkeep agent answer {id} --allow` or `--deny`",
                data["tool"].as_str().unwrap_or_default(),
                data["input"]
            )),
            "answer" if data["withdrawn"] == true => {
                self.line(&format!("? withdrawn: {}", data["because"].as_str().unwrap_or_default()));
            }
            "state" if data["state"] != "running" => self.line(&format!("… {}", data["state"].as_str().unwrap_or_default())),
            "end" => self.show_end(data),
            _ => {}
        }
    }

    fn show_message(&mut self, data: &Value) {
        for block in data["content"].as_array().into_iter().flatten() {
            match block["type"].as_str() {
                Some("tool_use") => self.line(&format!(
                    "→ {} {}",
                    block["name"].as_str().unwrap_or_default(),
                    brief(&block["input"])
                )),
                Some("text") if !self.text_seen => self.write(block["text"].as_str().unwrap_or_default()),
                _ => {}
            }
        }
        self.text_seen = false;
    }

    fn show_end(&mut self, data: &Value) {
        if self.wrote {
            print("\n");
        }
        let error = data["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
        if data["status"] != "done" {
            note(&format!(
                "{} ({}){error}",
                data["status"].as_str().unwrap_or_default(),
                data["reason"].as_str().unwrap_or_default()
            ));
        }
    }

    fn write(&mut self, text: &str) {
        self.wrote |= !text.is_empty();
        print(text);
    }

    fn line(&mut self, text: &str) {
        if self.wrote && std::io::stdout().is_terminal() {
            print("\n");
        }
        note(text);
    }
}

fn brief(input: &Value) -> String {
    let text = input["command"]
        .as_str()
        .or(input["file_path"].as_str())
        .map_or_else(|| input.to_string(), str::to_owned);
    let first = text.lines().next().unwrap_or_default();
    first.chars().take(120).collect()
}

fn answer(args: AnswerArgs, global: &Global) -> Result<ExitCode, CliError> {
    let mut answers = serde_json::Map::new();
    for answer in &args.answers {
        let (question, answer) = answer
            .split_once('=')
            .ok_or_else(|| CliError::usage(format!("`{answer}` is not QUESTION=ANSWER")))?;
        answers.insert(question.to_owned(), answer.into());
    }
    if !args.allow && args.deny.is_none() && answers.is_empty() {
        return Err(CliError::usage("an answer is needed").hint("`--allow`, `--deny` or `--answer QUESTION=ANSWER`"));
    }
    let mut body = json!({"remember": args.remember});
    match &args.deny {
        Some(why) => {
            body["behavior"] = json!("deny");
            body["message"] = json!(why);
        }
        None => body["behavior"] = json!("allow"),
    }
    if !answers.is_empty() {
        body["answers"] = Value::Object(answers);
    }
    if let Some(question) = args.question {
        body["question"] = question.into();
    }
    Client::new(global)?.post(&format!("/v1/agent/prompts/{}/answer", args.id), &body)?;
    Ok(ExitCode::SUCCESS)
}

fn cancel(args: &CancelArgs, global: &Global) -> Result<ExitCode, CliError> {
    Client::new(global)?.post(&format!("/v1/agent/prompts/{}/cancel", args.id), &json!({}))?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) {
    let mut stdout = std::io::stdout();
    // A reader that has gone away ends nothing: the prompt goes on.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

#[expect(clippy::print_stderr, reason = "the command line is what prints")]
fn note(text: &str) {
    eprintln!("{text}");
}
