//! The types that keys can have: how each is read, what it takes, how it is written again.

mod command;
mod lists;
mod quantity;
mod words;

pub(super) use command::{Exec, Execs};
pub(super) use lists::{Environment, Glob, OneOrMore, Pattern};
pub(super) use quantity::{Amount, Limit, Listen, Size, Span, Time};
pub(super) use words::{ActionChoice, ExitStatus, KillChoice, NAME_RULE, RestartChoice, Signal, TypeChoice, Umask, UnitName, WorkerChoice};

use super::expand::{Expanded, Secrets};
use super::faults::At;
use super::reader::{Node, Reader, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
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

use schema;

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

    /// As it may be shown: secrets as the variables that they were written as.
    pub(super) fn as_shown(&self) -> &str {
        &self.0.written
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
