//! The JSON Schema of `sandkeep.toml`, made of the types that read it.
//!
//! It is a file beside this one, as the descriptions of the APIs are: what makes it would say the same each time. The test holds the file to
//! the types, and writes it anew when SANDKEEP_UPDATE is set.

use schemars::{Schema, json_schema};

/// The schema as JSON.
pub fn schema() -> &'static str {
    include_str!("schema.json")
}

/// The schema of a table: each key with what it means and what it takes; no others.
pub(super) fn table(about: &str, keys: Vec<(&str, &str, Schema)>) -> Schema {
    let mut properties = serde_json::Map::new();
    for (key, doc, mut schema) in keys {
        let takes = schema.get("description").and_then(|takes| takes.as_str());
        let description = match takes {
            Some(takes) => format!("{} Takes {takes}.", doc.trim()),
            None => doc.trim().to_owned(),
        };
        schema.insert("description".to_owned(), description.into());
        properties.insert(key.to_owned(), schema.to_value());
    }
    json_schema!({ "type": "object", "description": about.trim(), "properties": properties, "additionalProperties": false })
}

#[cfg(test)]
mod tests {
    use super::super::file::File;

    fn made() -> serde_json::Value {
        let schema = schemars::SchemaGenerator::default().into_root_schema_for::<File>();
        let mut schema = schema.to_value();
        schema["title"] = "sandkeep.toml".into();
        schema
    }

    #[test]
    fn the_schema_says_what_the_types_say() {
        let made = format!("{:#}\n", made());
        if std::env::var_os("SANDKEEP_UPDATE").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/unit/schema.json"), made).unwrap();
            return;
        }
        assert!(
            super::schema() == made,
            "src/unit/schema.json is old: run this test with SANDKEEP_UPDATE=1, and look at the diff"
        );
    }

    fn nullable(schema: &serde_json::Value) -> bool {
        schema.to_string().contains("null")
    }

    fn undocumented(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            if property["description"].as_str().is_none_or(str::is_empty) {
                found.push(path.clone());
            }
        }
    }

    #[test]
    fn every_key_says_what_it_means() {
        let schema = made();
        let mut found = Vec::new();
        undocumented(&schema, "", &mut found);
        for (name, definition) in schema["$defs"].as_object().into_iter().flatten() {
            undocumented(definition, name, &mut found);
        }
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(schema["additionalProperties"], false);
        let unit = &schema["$defs"]["Unit"];
        assert!(
            unit["properties"]["type"]["enum"].as_array().is_some_and(|words| words.len() == 3),
            "{unit:#}"
        );
        assert_eq!(unit["additionalProperties"], false);
        assert!(!nullable(&schema), "TOML knows no null");
    }
}
