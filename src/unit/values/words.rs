//! Names: of signals, of units, and words to choose from.

use super::super::expand::Secrets;
use super::super::reader::{Node, Reader, Value};
use super::super::spec::Name;
use super::super::{signal, spelling};
use super::{Plain, Whole, scalar, schema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use toml::de::DeValue;

/// A signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::unit) struct Signal(pub(in crate::unit) i32);

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
pub(in crate::unit) enum ExitStatus {
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
pub(in crate::unit) struct Umask(pub(in crate::unit) u32);

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
pub(in crate::unit) struct UnitName(pub(in crate::unit) Name);

schema!(
    UnitName,
    "UnitName",
    json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "description": "the name of a unit" })
);

/// What a unit's name looks like.
pub(in crate::unit) const NAME_RULE: &str = "a name has 1 to 64 letters, digits, `_`, `.` or `-`, and begins with a letter or digit";

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

/// A choice of words.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $first_word:literal => $first:ident, $( $word:literal => $variant:ident, )* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(in crate::unit) enum $name { $first, $( $variant, )* }

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
