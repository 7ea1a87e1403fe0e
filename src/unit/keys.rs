//! Sections that are a list of keys: `[sync]` and `[agent]`, whose workers add keys without touching how files are read.

use super::agent_keys::AGENT_KEYS;
use super::faults::At;
use super::reader::{Node, Reader, Section, Value};
use super::values::{Confidential, Environment, Glob, Plain, Span, Text, Whole};
use super::{spelling, sync_keys::SYNC_KEYS};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use toml::de::DeValue;

/// A key: its name, what it takes, what it means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// As it is written.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) kind: Kind,
    /// What it means, for the schema.
    pub(super) doc: &'static str,
}

/// A row of a table of keys.
pub(super) const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, doc }
}

/// What a key takes, and as what its value reaches the worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A string.
    Text,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// An integer from … to ….
    Whole(i64, i64),
    /// A float or an integer, not negative; reaches the worker as a float.
    Number,
    /// A duration of more than zero; reaches the worker as a string that `duration::parse` reads.
    Duration,
    /// A size; reaches the worker as an integer, bytes.
    #[allow(dead_code, reason = "a kind like the others, for the tables to use")]
    Size,
    /// An array of strings.
    Texts,
    /// An array of globs.
    Globs,
    /// A table of strings.
    Variables,
    /// A string that may hold secrets, for the store.
    Store,
}

/// A value of such a section: what the worker gets, and what reads the same again.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) value: toml::Value,
    pub(super) written: toml::Value,
}

impl Setting {
    fn same(value: toml::Value) -> Self {
        Self {
            written: value.clone(),
            value,
        }
    }
}

fn text<const SECRETS: bool>(Text(expanded): Text<SECRETS>) -> Setting {
    Setting {
        value: expanded.value.into(),
        written: expanded.written.into(),
    }
}

impl Kind {
    fn read(self, node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Setting> {
        match self {
            Self::Text => Plain::read(node, reader).map(text),
            Self::Store => Confidential::read(node, reader).map(text),
            Self::Choice(words) => choice(words, node, reader),
            Self::Bool => bool::read(node, reader).map(|value| Setting::same(value.into())),
            Self::Whole(min, max) => whole(min, max, node, reader),
            Self::Number => number(node, reader),
            Self::Duration => Span::read(node, reader).map(|value| Setting::same(value.write())),
            Self::Size => size(node, reader),
            Self::Texts => Vec::<At<Plain>>::read(node, reader).map(|list| texts(list.into_iter().map(|at| at.value))),
            Self::Globs => Vec::<At<Glob>>::read(node, reader).map(|list| texts(list.into_iter().map(|at| at.value.0))),
            Self::Variables => variables(node, reader),
        }
    }

    fn schema(self) -> serde_json::Value {
        let texts = serde_json::json!({ "type": "array", "items": { "type": "string" } });
        match self {
            Self::Text | Self::Store | Self::Duration => serde_json::json!({ "type": "string" }),
            Self::Choice(words) => serde_json::json!({ "enum": words }),
            Self::Bool => serde_json::json!({ "type": "boolean" }),
            Self::Whole(min, max) => serde_json::json!({ "type": "integer", "minimum": min, "maximum": max }),
            Self::Number => serde_json::json!({ "type": "number", "minimum": 0 }),
            Self::Size => serde_json::json!({ "type": ["string", "integer"] }),
            Self::Texts | Self::Globs => texts,
            Self::Variables => {
                serde_json::json!({ "type": "object", "additionalProperties": { "type": ["string", "integer", "boolean"] } })
            }
        }
    }
}

fn texts(list: impl Iterator<Item = Plain>) -> Setting {
    let (value, written): (Vec<String>, Vec<String>) = list.map(|Text(expanded)| (expanded.value, expanded.written)).unzip();
    Setting {
        value: value.into(),
        written: written.into(),
    }
}

fn choice(words: &[&str], node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Setting> {
    let word = Plain::read(node, reader)?;
    if words.contains(&word.as_str()) {
        return Some(text(word));
    }
    let near = spelling::nearest(word.as_str(), words.iter().copied());
    let hint = near.map_or_else(
        || format!("`{}` takes one of `{}`", reader.last(), words.join("`, `")),
        |near| format!("did you mean `{near}`?"),
    );
    reader.error(
        node,
        format!("`{}` is not a value of `{}`", word.as_str(), reader.last()),
        Some(hint),
    );
    None
}

fn whole(min: i64, max: i64, node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Setting> {
    let number = Whole::<{ i64::MIN }, { i64::MAX }>::read(node, reader)?.0;
    if (min..=max).contains(&number) {
        return Some(Setting::same(number.into()));
    }
    reader.error(
        node,
        format!("`{}` takes a whole number from {min} to {max}, not `{number}`", reader.last()),
        None,
    );
    None
}

fn number(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Setting> {
    let number: Option<f64> = match node.get_ref() {
        DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().parse().ok(),
        DeValue::Float(float) => float.as_str().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| number.is_finite() && *number >= 0.0);
    if number.is_none() {
        reader.error(node, format!("`{}` takes a number that is not negative", reader.last()), None);
    }
    number.map(|number| Setting::same(number.into()))
}

fn size(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Setting> {
    let size = super::values::Size::read(node, reader)?;
    let bytes = size.0.map_or(i64::MAX, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    Some(Setting {
        value: bytes.into(),
        written: size.write(),
    })
}

/// Secrets are refused: what stands here reaches the worker through its configuration, not its environment.
fn variables(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Setting> {
    let environment = Environment::read(node, reader)?;
    let secret = environment
        .0
        .iter()
        .find(|(_, at)| at.value.0.written != super::expand::Expanded::literal(at.value.as_str()).written);
    if let Some((name, _)) = secret {
        let message = format!("`{name}` may not hold a secret here");
        reader.error(node, message, Some("name it in `secrets` of the unit instead".to_owned()));
        return None;
    }
    let value: toml::Table = environment
        .0
        .iter()
        .map(|(name, at)| (name.clone(), at.value.as_str().into()))
        .collect();
    Some(Setting {
        value: value.into(),
        written: environment.write(),
    })
}

/// Declares a section that is a list of keys.
macro_rules! key_table {
    ($(#[$doc:meta])* $name:ident, $title:literal, $keys:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub(super) struct $name(pub(super) Vec<(&'static str, At<Setting>)>);

        impl $name {
            /// The values as the worker gets them.
            pub(super) fn values(&self) -> toml::Table {
                self.0.iter().map(|(key, at)| ((*key).to_owned(), at.value.value.clone())).collect()
            }

            /// The value of a key.
            pub(super) fn find(&self, key: &str) -> Option<&At<Setting>> {
                self.0.iter().find(|(known, _)| *known == key).map(|(_, at)| at)
            }
        }

        impl Section for $name {
            fn keys() -> Vec<&'static str> {
                $keys.iter().map(|key| key.name).collect()
            }

            fn read_key(&mut self, key: &str, node: &Node<'_>, reader: &mut Reader<'_, '_>) -> bool {
                let Some(known) = $keys.iter().find(|known| known.name == key) else { return false };
                if let Some(value) = known.kind.read(node, reader) {
                    self.0.push((known.name, At { value, span: reader.span(node) }));
                }
                true
            }
        }

        impl Value for $name {
            const EXPECTED: &'static str = $title;

            fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self> {
                match node.get_ref() {
                    DeValue::Table(table) => Some(reader.section(table)),
                    _ => {
                        reader.mismatch::<Self>(node, None);
                        None
                    }
                }
            }

            fn write(&self) -> toml::Value {
                let table: toml::Table = self.0.iter().map(|(key, at)| ((*key).to_owned(), at.value.written.clone())).collect();
                table.into()
            }

            fn overlay(&mut self, over: Self) {
                self.0.retain(|(key, _)| over.find(key).is_none());
                self.0.extend(over.0);
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).trim_end_matches("Table").into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                table_schema($keys)
            }
        }
    };
}

key_table!(
    /// `[sync]`.
    SyncTable, "a table, `[sync]`", SYNC_KEYS
);
key_table!(
    /// `[agent]`.
    AgentTable, "a table, `[agent]`", AGENT_KEYS
);

impl SyncTable {
    /// Gives a key a text.
    pub(super) fn set(&mut self, key: &'static str, value: &str) {
        self.0.retain(|(known, _)| *known != key);
        self.0.push((key, At::nowhere(text(Plain::literal(value)))));
    }
}

fn table_schema(keys: &[Key]) -> Schema {
    let mut properties = serde_json::Map::new();
    for key in keys {
        let mut schema = key.kind.schema();
        schema["description"] = key.doc.into();
        properties.insert(key.name.to_owned(), schema);
    }
    json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
}
