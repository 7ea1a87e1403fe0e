//! What a person's answer to a question is in claude's words.

use super::protocol::Ask;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// An answer as it comes from the app, HTTP or the command line.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// `allow` or `deny`; not needed with `answers`.
    pub behavior: Option<String>,
    /// Why not, for the model.
    pub message: Option<String>,
    /// Answers to the questions of AskUserQuestion, by question.
    pub answers: Option<Map<String, Value>>,
    /// What the tool is to be given instead.
    pub updated_input: Option<Value>,
    /// Whether the rules that claude suggested are to hold from here on.
    pub remember: bool,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AnswerError {
    /// Its shape.
    #[error("reading the answer: {0}")]
    Shape(String),
    /// Neither yes nor no.
    #[error("an answer says `behavior`: \"allow\" or \"deny\", or gives `answers`")]
    Behavior,
}

/// The response that claude is given.
pub fn response(ask: &Ask, answer: &Value) -> Result<Value, AnswerError> {
    let answer: Answer = serde_json::from_value(answer.clone()).map_err(|error| AnswerError::Shape(error.to_string()))?;
    match (answer.behavior.as_deref(), &answer.answers) {
        (Some("deny"), _) => Ok(json!({"behavior": "deny", "message": answer.message.as_deref().unwrap_or("the user said no")})),
        (Some("allow"), _) | (None, Some(_)) => Ok(allow(ask, answer)),
        _ => Err(AnswerError::Behavior),
    }
}

fn allow(ask: &Ask, answer: Answer) -> Value {
    let mut input = answer.updated_input.unwrap_or_else(|| ask.input.clone());
    if let (Some(answers), Some(fields)) = (answer.answers, input.as_object_mut()) {
        fields.insert("answers".into(), Value::Object(answers));
    }
    let mut response = json!({"behavior": "allow", "updatedInput": input});
    if answer.remember && ask.suggestions.is_array() {
        response["updatedPermissions"] = ask.suggestions.clone();
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        Ask {
            request_id: "r".into(),
            tool: "AskUserQuestion".into(),
            input: json!({"questions": []}),
            description: None,
            suggestions: json!([{"type": "addRules"}]),
            tool_use_id: None,
        }
    }

    #[test]
    fn yes_no_and_answers() {
        let allowed = response(&ask(), &json!({"behavior": "allow", "remember": true})).unwrap();
        assert_eq!(allowed["updatedInput"], json!({"questions": []}));
        assert_eq!(allowed["updatedPermissions"][0]["type"], "addRules");
        let answered = response(&ask(), &json!({"answers": {"Which?": "that"}})).unwrap();
        assert_eq!(answered["updatedInput"]["answers"]["Which?"], "that");
        assert_eq!(response(&ask(), &json!({"behavior": "deny"})).unwrap()["behavior"], "deny");
        for wrong in [json!({}), json!({"behavior": "maybe"}), json!("yes"), json!({"behaviour": "allow"})] {
            response(&ask(), &wrong).unwrap_err();
        }
    }
}
