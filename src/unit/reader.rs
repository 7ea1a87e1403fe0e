//! Walks a parsed TOML document into the sections of `file`, noting every fault instead of stopping at the first.
//!
//! serde's derived readers stop at the first error; this walk over `toml`'s own spanned tree does not.

use super::expand::{Expanded, Fault, Secrets, Variables};
use super::faults::{At, Faults, Span};
use super::spelling;
use schemars::JsonSchema;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value of the document with its place.
pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// What a walk needs at hand.
#[derive(Debug)]
pub(super) struct Reader<'f, 'a> {
    pub(super) faults: &'f mut Faults<'a>,
    pub(super) variables: Variables<'f>,
    /// The keys from the top to where it stands.
    path: Vec<String>,
    /// Whether the text is the user's: the places of our own defaults are of no use to anyone.
    placed: bool,
}

/// A type that a key can have.
pub(super) trait Value: Sized + JsonSchema {
    /// What the key takes, for people: `a duration such as "5s"`.
    const EXPECTED: &'static str;

    /// Reads it. `None` when it is at fault, which has then been noted.
    fn read(node: &Node<'_>, reader: &mut Reader<'_, '_>) -> Option<Self>;

    /// Writes it so that `read` reads the same again, secrets by name.
    fn write(&self) -> toml::Value;

    /// Puts another value over this one; only some tables are joined key by key.
    fn overlay(&mut self, over: Self) {
        *self = over;
    }
}

/// A table whose keys are known.
pub(super) trait Section: Value + Default {
    /// Its keys.
    fn keys() -> Vec<&'static str>;

    /// Reads one key; `false` when it is none of this section's.
    fn read_key(&mut self, key: &str, node: &Node<'_>, reader: &mut Reader<'_, '_>) -> bool;
}

impl<'f, 'a> Reader<'f, 'a> {
    pub(super) fn new(faults: &'f mut Faults<'a>, variables: Variables<'f>, placed: bool) -> Self {
        Self {
            faults,
            variables,
            path: Vec::new(),
            placed,
        }
    }

    pub(super) fn span(&self, node: &Node<'_>) -> Span {
        self.placed_span(node.span())
    }

    /// This range, unless the text is ours.
    pub(super) fn placed_span(&self, range: std::ops::Range<usize>) -> Span {
        self.placed.then_some(range)
    }

    /// The dotted name of the key it stands at.
    pub(super) fn key(&self) -> String {
        self.path.join(".")
    }

    /// The last part of it.
    pub(super) fn last(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    pub(super) fn within<T>(&mut self, key: &str, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(key.to_owned());
        let result = walk(self);
        self.path.pop();
        result
    }

    pub(super) fn error(&mut self, node: &Node<'_>, message: impl Into<String>, hint: Option<String>) {
        let (span, key) = (self.span(node), self.key());
        self.faults.error(&span, &key, message, hint);
    }

    /// Says that a value of another type stands here.
    pub(super) fn mismatch<T: Value>(&mut self, node: &Node<'_>, hint: Option<String>) {
        let found = match node.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        let message = format!("`{}` takes {}, not {found}", self.last(), T::EXPECTED);
        self.error(node, message, hint);
    }

    /// Reads the value of a key.
    pub(super) fn value<T: Value>(&mut self, node: &Node<'_>) -> Option<At<T>> {
        let value = T::read(node, self)?;
        Some(At {
            value,
            span: self.span(node),
        })
    }

    /// Expands the variables of a string, noting what is wrong with them where it stands.
    pub(super) fn expand(&mut self, text: &str, node: &Node<'_>, secrets: Secrets) -> Option<Expanded> {
        if text.contains('\0') {
            self.error(
                node,
                format!("`{}` holds a NUL character, which no program can be given", self.last()),
                None,
            );
            return None;
        }
        let (expanded, faults) = self.variables.expand(text, secrets);
        for fault in &faults {
            self.expansion_fault(fault, node);
        }
        faults.is_empty().then_some(expanded)
    }

    fn expansion_fault(&mut self, fault: &Fault, node: &Node<'_>) {
        let key = self.key();
        let (message, hint, name) = match fault {
            Fault::Unset(name) => {
                let known = self.variables.environment.keys().map(String::as_str);
                let near = spelling::nearest(name, known).map(|near| format!("did you mean `{near}`?"));
                let hint = near.unwrap_or_else(|| format!("set it, or give a default: `${{{name}:-…}}`"));
                (format!("`{key}` needs the variable `{name}`, which is not set"), hint, Some(name))
            }
            Fault::Secret(name) => (
                format!("`{key}` may not hold the secret `{name}`"),
                "secrets may be used in `environment`, tokens and the store; a unit gets one by naming it in `secrets`".to_owned(),
                Some(name),
            ),
            Fault::Syntax(message) => (
                format!("`{key}`: {message}"),
                "a dollar that is none of a variable is written `$$`".to_owned(),
                None,
            ),
        };
        let span = self.span(node).map(|whole| self.variable_span(whole, name));
        self.faults.error(&span, &key, message, Some(hint));
    }

    /// Where `${NAME` stands in the value; the whole value when it is written with escapes.
    fn variable_span(&self, whole: std::ops::Range<usize>, name: Option<&String>) -> std::ops::Range<usize> {
        let source = self.faults.source(&whole);
        let written = name.map(|name| format!("${{{name}"));
        let found = written.and_then(|written| Some((source.find(&written)?, written.len())));
        match found {
            Some((at, length)) => {
                let close = usize::from(source[at + length..].starts_with('}'));
                whole.start + at..whole.start + at + length + close
            }
            None => whole,
        }
    }

    /// Reads a table as a section.
    pub(super) fn section<S: Section>(&mut self, table: &DeTable<'_>) -> S {
        let mut section = S::default();
        for (key, node) in table {
            let name: &str = key.get_ref();
            let known = self.within(name, |reader| section.read_key(name, node, reader));
            if !known {
                let span = self.placed.then(|| key.span());
                self.unknown_key(name, &span, node, &S::keys());
            }
        }
        section
    }

    /// Says that the table it stands in has no such key, and what may have been meant.
    fn unknown_key(&mut self, name: &str, span: &Span, node: &Node<'_>, known: &[&str]) {
        let dotted = self.within(name, |reader| reader.key());
        let message = match (self.path.is_empty(), node.get_ref()) {
            (true, DeValue::Table(_)) => format!("unknown section `[{name}]`"),
            (true, _) => format!("unknown key `{name}` outside of any section"),
            (false, _) => format!("unknown key `{name}` in `[{}]`", self.key()),
        };
        let hint = self.meant(name, known);
        self.faults.error(span, &dotted, message, hint);
    }

    fn meant(&mut self, name: &str, known: &[&str]) -> Option<String> {
        let of_a_unit = self.path.len() == 2 && self.path[0] == "unit";
        let synonym = spelling::unit_key(name).filter(|_| of_a_unit);
        let snake = spelling::snake_case(name);
        let near = synonym.or_else(|| spelling::nearest(&snake, known.iter().copied()));
        if let Some(near) = near {
            let key = self.within(near, |reader| reader.key());
            self.faults.meant(key);
        }
        match near {
            Some("readiness") if name == "port" => Some("did you mean `readiness = { listen = PORT }`?".to_owned()),
            Some("enabled") if name == "disabled" => Some("did you mean `enabled = false`?".to_owned()),
            Some(near) => Some(format!("did you mean `{near}`?")),
            None => super::file::home_of(&snake).map(|home| format!("`{snake}` is a key of `{home}`")),
        }
    }
}

/// The name of a key as it stands in the file: `r#type` is `type`.
pub(super) fn plain(identifier: &'static str) -> &'static str {
    identifier.strip_prefix("r#").unwrap_or(identifier)
}

/// Declares a section: its struct, its keys, how it is read, joined, written, and its JSON Schema, all from one list.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident, $title:literal { $( $(#[doc = $doc:literal])+ $key:ident : $type:ty, )* }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, Default)]
        pub(super) struct $name {
            $( $(#[doc = $doc])+ pub(super) $key: Option<$crate::unit::faults::At<$type>>, )*
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).trim_end_matches("File").into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let properties = [$( (
                    $crate::unit::reader::plain(stringify!($key)),
                    concat!($( $doc ),+),
                    generator.subschema_for::<$type>(),
                ) ),*];
                $crate::unit::schema::table(concat!($( $about ),+), properties.into())
            }
        }

        impl $crate::unit::reader::Section for $name {
            fn keys() -> Vec<&'static str> {
                vec![$( $crate::unit::reader::plain(stringify!($key)) ),*]
            }

            fn read_key(&mut self, key: &str, node: &$crate::unit::reader::Node<'_>, reader: &mut $crate::unit::reader::Reader<'_, '_>) -> bool {
                $( if key == $crate::unit::reader::plain(stringify!($key)) {
                    self.$key = reader.value(node);
                    return true;
                } )*
                false
            }
        }

        impl $crate::unit::reader::Value for $name {
            const EXPECTED: &'static str = $title;

            fn read(node: &$crate::unit::reader::Node<'_>, reader: &mut $crate::unit::reader::Reader<'_, '_>) -> Option<Self> {
                match node.get_ref() {
                    toml::de::DeValue::Table(table) => Some(reader.section(table)),
                    _ => {
                        reader.mismatch::<Self>(node, None);
                        None
                    }
                }
            }

            fn write(&self) -> toml::Value {
                let Self { $( $key ),* } = self;
                let mut table = toml::Table::new();
                $( if let Some(at) = $key {
                    table.insert($crate::unit::reader::plain(stringify!($key)).to_owned(), at.value.write());
                } )*
                table.into()
            }

            fn overlay(&mut self, over: Self) {
                let Self { $( $key ),* } = over;
                $( match (&mut self.$key, $key) {
                    (Some(under), Some(over)) => {
                        under.value.overlay(over.value);
                        under.span = over.span;
                    }
                    (under @ None, over) => *under = over,
                    (Some(_), None) => {}
                } )*
            }
        }
    };
}
pub(super) use section;
