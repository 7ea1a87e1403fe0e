//! Durations, sizes, amounts.

use super::super::expand::Secrets;
use super::super::reader::{Node, Reader, Value};
use super::super::{duration, size};
use super::{Port, VARIABLE, Whole, scalar, schema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::time::Duration;
use toml::de::DeValue;

/// A type that is read from the text of a string.
macro_rules! parsed {
    ($(#[$doc:meta])* $name:ident($inner:ty), $expected:literal, $noun:literal, $schema:tt, $parse:expr, $format:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::unit) struct $name(pub(in crate::unit) $inner);

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
pub(in crate::unit) struct Size(pub(in crate::unit) Option<u64>);

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
pub(in crate::unit) struct Amount(pub(in crate::unit) Option<u64>);

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

/// What a `listen` probe takes: a port, or `true` for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::unit) struct Listen(pub(in crate::unit) Option<u16>);

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
