//! Commands. Their text is never expanded: the shell or the unit's own environment does that.

use super::super::reader::{Node, Reader, Value};
use super::super::spec::Command;
use super::{scalar, schema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use toml::de::DeValue;

/// A command.
#[derive(Clone, Debug)]
pub(in crate::unit) struct Exec(pub(in crate::unit) Command);

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
pub(in crate::unit) struct Execs(pub(in crate::unit) Vec<Exec>);

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
