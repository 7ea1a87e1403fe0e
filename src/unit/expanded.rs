//! The configuration with everything that it stands for written out: valid input again, secrets by name.

use super::file::File;
use super::reader::Value;
use std::fmt::Write as _;
use toml::{Table, Value as Toml};

/// Writes the file.
pub(super) fn print(file: &File) -> String {
    let Toml::Table(sections) = file.write() else {
        return String::new();
    };
    let mut out = String::new();
    for (name, section) in &sections {
        match section {
            Toml::Table(units) if name == "unit" => units.iter().for_each(|(unit, table)| print_table(&mut out, &["unit", unit], table)),
            table => print_table(&mut out, &[name], table),
        }
    }
    out
}

fn print_table(out: &mut String, path: &[&str], table: &Toml) {
    let Toml::Table(table) = table else { return };
    let name: Vec<String> = path.iter().map(|part| bare_or_quoted(part)).collect();
    let gap = if out.is_empty() { "" } else { "\n" };
    let _ = writeln!(out, "{gap}[{}]", name.join("."));
    for (key, value) in table {
        let _ = writeln!(out, "{} = {}", bare_or_quoted(key), inline(value));
    }
}

fn bare_or_quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { string(key) }
}

fn inline(value: &Toml) -> String {
    match value {
        Toml::String(text) => string(text),
        Toml::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Toml::Table(table) => inline_table(table),
        other => other.to_string(),
    }
}

fn inline_table(table: &Table) -> String {
    let pairs: Vec<String> = table
        .iter()
        .map(|(key, value)| format!("{} = {}", bare_or_quoted(key), inline(value)))
        .collect();
    if pairs.is_empty() {
        "{}".to_owned()
    } else {
        format!("{{ {} }}", pairs.join(", "))
    }
}

/// A basic string on one line.
fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
