//! The types that keys can have: how each is read, what it takes, how it is written again.

use super::expand::{Expanded, Secrets};
use super::faults::At;
use super::reader::{Node, Reader, Value};
use super::spec::{Command, Name};
use super::{duration, signal, size, spelling};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::de::DeValue;

/// Gives a type its JSON Schema, always inline.
macro_rules! schema {
    ($type:ty, $name:expr, $schema:expr) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// The pattern of a string that holds a variable, for keys that are no strings.
const VARIABLE: &str = r"\$\{";

/// A text. Secrets may stand in it where `SECRETS` says so.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text<const SECRETS: bool>(pub(super) Expanded);

/// A text that no secret may stand in.
pub(super) type Plain = Text<false>;
/// A text that may hold a secret.
pub(super) type Confidential = Text<true>;

impl<const SECRETS: bool> Text<SECRETS> {
    pub(super) fn literal(text: &str) -> Self {
        Self(Expanded::literal(text))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0.value
    }
}

impl<const SECRETS: bool> JsonSchema for Text<SECRETS> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl<const SECRETS: bool> Value for Text<SECRETS> {
    const EXPECTED: &'static str = "a string";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let secrets = if SECRETS { Secrets::Allowed } else { Secrets::Refused };
        match node.get_ref() {
            DeValue::String(text) => reader.expand(text, node, secrets).map(Self),
            other => {
                let hint = scalar(other).map(|text| format!("write it as a string: `\"{text}\"`"));
                reader.mismatch::<Self>(node, hint);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        self.0.written.clone().into()
    }
}

/// A token: a text that is a secret itself.
#[derive(Clone, Debug)]
pub(super) struct Token(Expanded);

schema!(Token, "Token", json_schema!({ "type": "string" }));

impl Token {
    pub(super) fn as_str(&self) -> &str {
        &self.0.value
    }
}

impl Value for Token {
    const EXPECTED: &'static str = "a string";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::String(text) = node.get_ref() else {
            reader.mismatch::<Self>(node, None);
            return None;
        };
        reader.expand(text, node, Secrets::Always).map(Self)
    }

    fn write(&self) -> toml::Value {
        self.0.written.clone().into()
    }
}

/// A number or a boolean as text.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::Integer(integer) => Some(integer.to_string()),
        DeValue::Float(float) => Some(float.as_str().to_owned()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        DeValue::Datetime(date) => Some(date.to_string()),
        DeValue::String(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Expands a string that stands where another type is expected; `None` as well when there is nothing to expand.
fn computed(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Option<String>> {
    match node.get_ref() {
        DeValue::String(text) if text.contains("${") => Some(reader.expand(text, node, Secrets::Refused).map(|expanded| expanded.value)),
        _ => None,
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "`true` or `false`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        if let DeValue::Boolean(boolean) = node.get_ref() {
            return Some(*boolean);
        }
        match computed(node, reader) {
            Some(text) => {
                let text = text?;
                let parsed = text.parse().ok();
                if parsed.is_none() {
                    reader.error(node, format!("`{}` takes {}, not `{text}`", reader.last(), Self::EXPECTED), None);
                }
                parsed
            }
            None => {
                let written = node.get_ref().as_str().filter(|text| matches!(*text, "true" | "false"));
                let hint = written.map(|text| format!("write it without quotes: `{text}`"));
                reader.mismatch::<Self>(node, hint);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        (*self).into()
    }
}

/// A whole number within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole<const MIN: i64, const MAX: i64>(pub(super) i64);

/// A TCP port.
pub(super) type Port = Whole<1, 65_535>;
/// How often, at least once.
pub(super) type Times = Whole<1, 1_000_000>;
/// How many.
pub(super) type Count = Whole<0, 1_000_000>;

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    /// The number in the type that its bounds were chosen for.
    pub(super) fn to<T: TryFrom<i64>>(self) -> T
    where
        T::Error: std::fmt::Debug,
    {
        T::try_from(self.0).expect("the bounds are within the type")
    }

    fn check(number: Option<i64>, shown: &str, node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let fits = number.filter(|number| (MIN..=MAX).contains(number));
        if fits.is_none() {
            let message = format!("`{}` takes a whole number from {MIN} to {MAX}, not `{shown}`", reader.last());
            reader.error(node, message, None);
        }
        fits.map(Self)
    }
}

impl<const MIN: i64, const MAX: i64> JsonSchema for Whole<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Whole_{MIN}_{MAX}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": MIN, "maximum": MAX, "pattern": VARIABLE })
    }
}

impl<const MIN: i64, const MAX: i64> Value for Whole<MIN, MAX> {
    const EXPECTED: &'static str = "a whole number";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        if let DeValue::Integer(integer) = node.get_ref() {
            let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
            return Self::check(number, &integer.to_string(), node, reader);
        }
        match computed(node, reader) {
            Some(text) => {
                let text = text?;
                Self::check(text.trim().parse().ok(), &text, node, reader)
            }
            None => {
                let written = node.get_ref().as_str().filter(|text| text.parse::<i64>().is_ok());
                let hint = written.map(|text| format!("write it without quotes: `{text}`"));
                reader.mismatch::<Self>(node, hint);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        self.0.into()
    }
}

/// A type that is read from the text of a string.
macro_rules! parsed {
    ($(#[$doc:meta])* $name:ident($inner:ty), $expected:literal, $noun:literal, $schema:tt, $parse:expr, $format:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) struct $name(pub(super) $inner);

        schema!($name, stringify!($name), json_schema!($schema));

        impl Value for $name {
            const EXPECTED: &'static str = $expected;

            fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
                let DeValue::String(text) = node.get_ref() else {
                    let hint = scalar(node.get_ref()).filter(|_| $expected.contains("5s"));
                    reader.mismatch::<Self>(node, hint.map(|number| format!("give it a unit: `\"{number}s\"`")));
                    return None;
                };
                let text = reader.expand(text, node, Secrets::Refused)?.value;
                match $parse(text.as_str()) {
                    Ok(value) => Some(Self(value)),
                    Err(why) => {
                        let message = format!("`{text}` is not a {}: {why}", $noun);
                        reader.error(node, message, Some(format!("`{}` takes {}", reader.last(), $expected)));
                        None
                    }
                }
            }

            fn write(&self) -> toml::Value {
                $format(self.0).into()
            }
        }
    };
}

parsed!(
    /// A duration.
    Time(Duration), "a duration such as `\"5s\"`", "duration",
    { "type": "string", "description": "a duration such as \"250ms\", \"5s\", \"1min 30s\"" },
    duration::parse, duration::format
);

parsed!(
    /// A duration that is not zero.
    Span(Duration), "a duration such as `\"5s\"`", "duration",
    { "type": "string", "description": "a duration such as \"250ms\", \"5s\", \"1min 30s\", more than zero" },
    positive, duration::format
);

parsed!(
    /// A time limit; `None` = for ever.
    Limit(Option<Duration>), "a duration such as `\"5s\"`, or `\"infinity\"`", "duration",
    { "type": "string", "description": "a duration such as \"250ms\", \"5s\", \"1min 30s\", or \"infinity\"" },
    |text| if text == "infinity" { Ok(None) } else { positive(text).map(Some) },
    |limit: Option<Duration>| limit.map_or_else(|| "infinity".to_owned(), duration::format)
);

fn positive(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("it must be more than zero".to_owned()),
        other => other,
    }
}

/// A size in bytes; `None` = no limit. A whole number stands for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) Option<u64>);

schema!(
    Size,
    "Size",
    json_schema!({ "type": ["string", "integer"], "minimum": 0, "description": "a size such as \"64MiB\", or \"infinity\"" })
);

impl Value for Size {
    const EXPECTED: &'static str = "a size such as `\"64MiB\"`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let text = match node.get_ref() {
            DeValue::String(text) => reader.expand(text, node, Secrets::Refused)?.value,
            DeValue::Integer(integer) if integer.radix() == 10 => integer.to_string(),
            _ => {
                reader.mismatch::<Self>(node, None);
                return None;
            }
        };
        if text == "infinity" {
            return Some(Self(None));
        }
        match size::parse(&text) {
            Ok(bytes) => Some(Self(Some(bytes))),
            Err(why) => {
                let hint = format!("`{}` takes {}", reader.last(), Self::EXPECTED);
                reader.error(node, format!("`{text}` is not a size: {why}"), Some(hint));
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        self.0.map_or_else(|| "infinity".to_owned(), size::format).into()
    }
}

/// A number of things; `None` = no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount(pub(super) Option<u64>);

schema!(
    Amount,
    "Amount",
    json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "const": "infinity" }, { "type": "string", "pattern": VARIABLE }] })
);

impl Value for Amount {
    const EXPECTED: &'static str = "a whole number, or `\"infinity\"`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(text) if text == "infinity" => Some(Self(None)),
            DeValue::Integer(_) | DeValue::String(_) => Whole::<0, { i64::MAX }>::read(node, reader).map(|number| Self(Some(number.to()))),
            _ => {
                reader.mismatch::<Self>(node, None);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        let number = self.0.and_then(|number| i64::try_from(number).ok());
        number.map_or_else(|| "infinity".into(), Into::into)
    }
}

/// A signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signal(pub(super) i32);

schema!(
    Signal,
    "Signal",
    json_schema!({ "type": "string", "description": "a signal's name such as \"SIGTERM\"" })
);

impl Value for Signal {
    const EXPECTED: &'static str = "a signal's name such as `\"SIGTERM\"`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::String(text) = node.get_ref() else {
            let number = scalar(node.get_ref()).and_then(|number| number.parse().ok());
            let known = number.filter(|number| (1..32).contains(number)).map(signal::name);
            reader.mismatch::<Self>(node, known.map(|name| format!("write `\"{name}\"`")));
            return None;
        };
        let text = reader.expand(text, node, Secrets::Refused)?.value;
        let parsed = signal::parse(&text);
        if parsed.is_none() {
            let near = spelling::nearest(&text, signal::names()).or_else(|| spelling::nearest(&format!("SIG{text}"), signal::names()));
            reader.error(
                node,
                format!("`{text}` is not a signal"),
                near.map(|near| format!("did you mean `{near}`?")),
            );
        }
        parsed.map(Self)
    }

    fn write(&self) -> toml::Value {
        signal::name(self.0).into()
    }
}

/// An exit code or a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitStatus {
    Code(u8),
    Signal(i32),
}

schema!(
    ExitStatus,
    "ExitStatus",
    json_schema!({ "type": ["integer", "string"], "minimum": 0, "maximum": 255, "description": "an exit code, or a signal's name" })
);

impl Value for ExitStatus {
    const EXPECTED: &'static str = "exit codes from 0 to 255 and names of signals";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::Integer(_) => Whole::<0, 255>::read(node, reader).map(|code| Self::Code(code.to())),
            DeValue::String(_) => Signal::read(node, reader).map(|signal| Self::Signal(signal.0)),
            _ => {
                reader.mismatch::<Self>(node, None);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        match self {
            Self::Code(code) => i64::from(*code).into(),
            Self::Signal(number) => signal::name(*number).into(),
        }
    }
}

/// A file mode creation mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Umask(pub(super) u32);

schema!(
    Umask,
    "Umask",
    json_schema!({ "type": ["string", "integer"], "pattern": "^[0-7]{1,4}$", "description": "an octal mask such as \"022\"" })
);

impl Value for Umask {
    const EXPECTED: &'static str = "an octal mask such as `\"022\"`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let digits = match node.get_ref() {
            DeValue::String(text) => reader.expand(text, node, Secrets::Refused)?.value,
            DeValue::Integer(integer) if integer.radix() == 8 => integer.as_str().to_owned(),
            other => {
                let hint = scalar(other).map(|number| format!("write it as a string: `\"0{number}\"`"));
                reader.mismatch::<Self>(node, hint);
                return None;
            }
        };
        let mask = u32::from_str_radix(&digits, 8)
            .ok()
            .filter(|mask| *mask <= 0o777 && !digits.starts_with('+'));
        if mask.is_none() {
            reader.error(node, format!("`{digits}` is not {}", Self::EXPECTED), None);
        }
        mask.map(Self)
    }

    fn write(&self) -> toml::Value {
        format!("{:03o}", self.0).into()
    }
}

/// The name of a unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UnitName(pub(super) Name);

schema!(
    UnitName,
    "UnitName",
    json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "description": "the name of a unit" })
);

/// What a unit's name looks like.
pub(super) const NAME_RULE: &str = "a name has 1 to 64 letters, digits, `_`, `.` or `-`, and begins with a letter or digit";

impl Value for UnitName {
    const EXPECTED: &'static str = "names of units";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let text = Plain::read(node, reader)?;
        let name = Name::new(text.as_str());
        if name.is_none() {
            let bare = text.as_str().strip_suffix(".service").filter(|bare| Name::new(bare).is_some());
            let hint = bare.map_or_else(|| NAME_RULE.to_owned(), |bare| format!("did you mean `{bare}`?"));
            reader.error(node, format!("`{}` is not the name of a unit", text.as_str()), Some(hint));
        }
        name.map(Self)
    }

    fn write(&self) -> toml::Value {
        self.0.as_str().into()
    }
}

impl<T: Value> Value for Vec<At<T>> {
    const EXPECTED: &'static str = "an array";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::Array(array) => {
                let items: Vec<Option<At<T>>> = array.iter().map(|item| reader.value(item)).collect();
                items.into_iter().collect()
            }
            DeValue::String(text) => {
                let hint = format!("write `{} = [{}]`", reader.last(), toml::Value::from(text.as_ref()));
                reader.mismatch::<Self>(node, Some(hint));
                None
            }
            other => {
                let hint = scalar(other).map(|text| format!("write `{} = [{text}]`", reader.last()));
                reader.mismatch::<Self>(node, hint);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        self.iter().map(|item| item.value.write()).collect::<Vec<_>>().into()
    }
}

/// One text or several.
#[derive(Clone, Debug)]
pub(super) struct OneOrMore(pub(super) Vec<At<Plain>>);

schema!(
    OneOrMore,
    "OneOrMore",
    json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
);

impl Value for OneOrMore {
    const EXPECTED: &'static str = "a string or an array of strings";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(_) => reader.value(node).map(|one| Self(vec![one])),
            DeValue::Array(_) => Vec::read(node, reader).map(Self),
            _ => {
                reader.mismatch::<Self>(node, None);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        self.0.write()
    }
}

/// A glob, relative to the project's root.
#[derive(Clone, Debug)]
pub(super) struct Glob(pub(super) Plain);

schema!(
    Glob,
    "Glob",
    json_schema!({ "type": "string", "description": "a glob, relative to the project's root" })
);

impl Value for Glob {
    const EXPECTED: &'static str = "globs such as `\"src/**\"`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let text = Plain::read(node, reader)?;
        let fault = match globset::GlobBuilder::new(text.as_str()).literal_separator(true).build() {
            Err(error) => Some(error.kind().to_string()),
            Ok(_) if text.as_str().is_empty() => Some("it is empty".to_owned()),
            Ok(_) => None,
        };
        if let Some(why) = fault {
            reader.error(node, format!("`{}` is not a glob: {why}", text.as_str()), None);
            return None;
        }
        Some(Self(text))
    }

    fn write(&self) -> toml::Value {
        self.0.write()
    }
}

/// A regular expression.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: Plain,
    pub(super) regex: regex::Regex,
}

schema!(Pattern, "Pattern", json_schema!({ "type": "string", "format": "regex" }));

impl Value for Pattern {
    const EXPECTED: &'static str = "a regular expression";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let text = Plain::read(node, reader)?;
        match regex::RegexBuilder::new(text.as_str()).size_limit(1 << 20).build() {
            Ok(regex) => Some(Self { text, regex }),
            Err(error) => {
                let why = error.to_string();
                let last = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
                reader.error(node, format!("`{}` is not a regular expression: {last}", text.as_str()), None);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        self.text.write()
    }
}

/// A command. Its text is never expanded: the shell or the unit's own environment does that.
#[derive(Clone, Debug)]
pub(super) struct Exec(pub(super) Command);

const COMMAND_SCHEMA: &str = "a string goes through `/bin/sh -c`, an array is executed as it is";

schema!(
    Exec,
    "Exec",
    json_schema!({
        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }],
        "description": COMMAND_SCHEMA
    })
);

impl Value for Exec {
    const EXPECTED: &'static str = "a command: a string for the shell or an array of strings";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let command = match node.get_ref() {
            DeValue::String(text) => Command::Shell(argument(text, node, reader)?),
            DeValue::Array(array) => {
                let arguments: Vec<Option<String>> = array.iter().map(|item| word(item, reader)).collect();
                Command::Argv(arguments.into_iter().collect::<Option<_>>()?)
            }
            _ => {
                reader.mismatch::<Self>(node, None);
                return None;
            }
        };
        let empty = match &command {
            Command::Shell(text) => text.trim().is_empty(),
            Command::Argv(words) => words.first().is_none_or(String::is_empty),
        };
        if empty {
            reader.error(node, format!("`{}` names no command", reader.last()), None);
            return None;
        }
        Some(Self(command))
    }

    fn write(&self) -> toml::Value {
        match &self.0 {
            Command::Shell(text) => text.as_str().into(),
            Command::Argv(words) => words.clone().into(),
        }
    }
}

fn word(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<String> {
    match node.get_ref() {
        DeValue::String(text) => argument(text, node, reader),
        other => {
            let hint = scalar(other).map(|text| format!("write it as a string: `\"{text}\"`"));
            reader.mismatch::<Exec>(node, hint);
            None
        }
    }
}

fn argument(text: &str, node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<String> {
    if text.contains('\0') {
        reader.error(
            node,
            format!("`{}` holds a NUL character, which no program can be given", reader.last()),
            None,
        );
        return None;
    }
    Some(text.to_owned())
}

/// Commands, one after the other: one as in `exec`, or an array of arrays.
#[derive(Clone, Debug)]
pub(super) struct Execs(pub(super) Vec<Exec>);

schema!(
    Execs,
    "Execs",
    json_schema!({
        "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" } },
            { "type": "array", "items": { "type": "array", "items": { "type": "string" }, "minItems": 1 } }
        ],
        "description": "one command as in `exec`, or an array of arrays: several, one after the other"
    })
);

impl Value for Execs {
    const EXPECTED: &'static str = Exec::EXPECTED;

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::Array(array) = node.get_ref() else {
            return Exec::read(node, reader).map(|one| Self(vec![one]));
        };
        let arrays = array.iter().filter(|item| item.get_ref().is_array()).count();
        if arrays == 0 && !array.is_empty() {
            return Exec::read(node, reader).map(|one| Self(vec![one]));
        }
        if arrays < array.len() {
            let message = format!("`{}` mixes arguments and commands", reader.last());
            reader.error(node, message, Some("write every command as an array".to_owned()));
            return None;
        }
        let commands: Vec<Option<Exec>> = array.iter().map(|item| Exec::read(item, reader)).collect();
        commands.into_iter().collect::<Option<_>>().map(Self)
    }

    fn write(&self) -> toml::Value {
        match self.0.as_slice() {
            [one] => one.write(),
            several => several.iter().map(several_form).collect::<Vec<_>>().into(),
        }
    }
}

fn several_form(exec: &Exec) -> toml::Value {
    match &exec.0 {
        Command::Shell(text) => vec!["/bin/sh", "-c", text].into(),
        Command::Argv(words) => words.clone().into(),
    }
}

/// A table of variables. Joined entry by entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment(pub(super) BTreeMap<String, At<Confidential>>);

schema!(
    Environment,
    "Environment",
    json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "integer", "boolean"] } })
);

impl Value for Environment {
    const EXPECTED: &'static str = "a table such as `{ PORT = \"3000\" }`";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            reader.mismatch::<Self>(node, None);
            return None;
        };
        let mut environment = Self::default();
        for (key, value) in table {
            let name: &str = key.get_ref();
            let read = reader.within(name, |reader| variable(name, value, reader));
            if let Some(at) = read {
                environment.0.insert(name.to_owned(), at);
            }
        }
        Some(environment)
    }

    fn write(&self) -> toml::Value {
        let table: toml::Table = self.0.iter().map(|(name, at)| (name.clone(), at.value.write())).collect();
        table.into()
    }

    fn overlay(&mut self, over: Self) {
        self.0.extend(over.0);
    }
}

/// Variables that the supervisor sets itself.
const RESERVED: [&str; 4] = ["SANDKEEP_UNIT", "SANDKEEP_INVOCATION_ID", "SANDKEEP_SOCKET", "NOTIFY_SOCKET"];

fn variable(name: &str, node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<At<Confidential>> {
    if name.is_empty() || name.contains(['=', '\0']) {
        reader.error(node, format!("`{name}` is not the name of a variable"), None);
        return None;
    }
    if RESERVED.contains(&name) {
        reader.error(
            node,
            format!("`{name}` is set by the supervisor itself"),
            Some("take it out".to_owned()),
        );
        return None;
    }
    match node.get_ref() {
        DeValue::Integer(_) | DeValue::Boolean(_) => Some(At {
            value: Text::literal(&scalar(node.get_ref()).unwrap_or_default()),
            span: reader.span(node),
        }),
        _ => reader.value(node),
    }
}

/// A choice of words.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $first_word:literal => $first:ident, $( $word:literal => $variant:ident, )* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $first, $( $variant, )* }

        impl $name {
            const WORDS: &'static [(&'static str, Self)] = &[($first_word, Self::$first) $(, ($word, Self::$variant) )*];
        }

        schema!($name, stringify!($name), json_schema!({ "enum": [$first_word $(, $word )*] }));

        impl Value for $name {
            const EXPECTED: &'static str = concat!("one of `", $first_word, "`" $(, ", `", $word, "`" )*);

            fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
                let text = match node.get_ref() {
                    DeValue::String(text) => reader.expand(text, node, Secrets::Refused)?.value,
                    _ => {
                        reader.mismatch::<Self>(node, None);
                        return None;
                    }
                };
                let found = Self::WORDS.iter().find(|(word, _)| *word == text);
                if found.is_none() {
                    let dashed = spelling::snake_case(&text).replace('_', "-");
                    let near = spelling::nearest(&dashed, Self::WORDS.iter().map(|(word, _)| *word));
                    let hint = near.map_or_else(|| format!("`{}` takes {}", reader.last(), Self::EXPECTED), |near| format!("did you mean `{near}`?"));
                    reader.error(node, format!("`{text}` is not a value of `{}`", reader.last()), Some(hint));
                }
                found.map(|(_, choice)| *choice)
            }

            fn write(&self) -> toml::Value {
                let found = Self::WORDS.iter().find(|(_, choice)| choice == self);
                found.map_or("", |(word, _)| word).into()
            }
        }
    };
}

choice!(
    /// `type`.
    TypeChoice { "simple" => Simple, "notify" => Notify, "oneshot" => Oneshot, }
);
choice!(
    /// `worker`.
    WorkerChoice { "restore" => Restore, "sync" => Sync, "agent" => Agent, }
);
choice!(
    /// `restart`.
    RestartChoice {
        "no" => No, "on-success" => OnSuccess, "on-failure" => OnFailure, "on-abnormal" => OnAbnormal, "on-watchdog" => OnWatchdog,
        "always" => Always,
    }
);
choice!(
    /// `start_limit_action`.
    ActionChoice { "none" => None, "shutdown" => Shutdown, }
);
choice!(
    /// `kill_mode`.
    KillChoice { "control-group" => ControlGroup, "mixed" => Mixed, }
);

/// What a `listen` probe takes: a port, or `true` for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub(super) Option<u16>);

schema!(
    Listen,
    "Listen",
    json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 65535 }, { "const": true }, { "type": "string", "pattern": VARIABLE }] })
);

impl Value for Listen {
    const EXPECTED: &'static str = "a port, or `true` for any";

    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::Boolean(true) => Some(Self(None)),
            DeValue::Integer(_) | DeValue::String(_) => Port::read(node, reader).map(|port| Self(Some(port.to()))),
            _ => {
                reader.mismatch::<Self>(node, None);
                None
            }
        }
    }

    fn write(&self) -> toml::Value {
        self.0.map_or_else(|| true.into(), |port| i64::from(port).into())
    }
}
