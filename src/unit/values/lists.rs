//! Arrays and tables, and the patterns that stand in them.

use super::super::faults::At;
use super::super::reader::{Node, Reader, Value};
use super::{Confidential, Plain, Text, scalar, schema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::BTreeMap;
use toml::de::DeValue;

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
pub(in crate::unit) struct OneOrMore(pub(in crate::unit) Vec<At<Plain>>);

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
pub(in crate::unit) struct Glob(pub(in crate::unit) Plain);

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
pub(in crate::unit) struct Pattern {
    text: Plain,
    pub(in crate::unit) regex: regex::Regex,
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

/// A table of variables. Joined entry by entry.
#[derive(Clone, Debug, Default)]
pub(in crate::unit) struct Environment(pub(in crate::unit) BTreeMap<String, At<Confidential>>);

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
