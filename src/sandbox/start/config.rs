//! Which configuration the supervisor gets: the repository's own, one made from the flags, or what is found out about the project.

use super::{StartRequest, survey::Survey};
use crate::unit::Source;

/// What `up` is given, and the file that has to be brought in for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Configuration {
    /// Arguments of `up`.
    pub(super) up: Vec<String>,
    /// The file's text, where one is made.
    pub(super) made: Option<String>,
    /// For people.
    pub(super) said: String,
}

/// The file that is made, in our own directory.
pub(super) fn made_path(place: &str) -> String {
    format!("{place}/{}", Source::FILE_NAME)
}

/// Chooses.
pub(super) fn choose(request: &StartRequest, survey: &Survey, listen: &str) -> Configuration {
    let mut configuration = Configuration::default();
    let mut arg = |name: &str, value: &str| configuration.up.extend([name.to_owned(), value.to_owned()]);
    let flags = [("--install", &request.install), ("--dev", &request.dev)];
    let made = match (&request.install, &request.dev) {
        (Some(install), Some(dev)) if !survey.own_config => Some(text(survey, install, dev, request.port)),
        _ => None,
    };
    if survey.own_config {
        arg("--config", &format!("{}/{}", survey.directory, Source::FILE_NAME));
    } else if made.is_some() {
        arg("--config", &made_path(&survey.place));
    }
    if made.is_none() {
        for (name, value) in flags {
            if let Some(value) = value {
                arg(name, value);
            }
        }
        if let Some(port) = request.port {
            arg("--port", &port.to_string());
        }
    }
    if let Some(project) = &request.project_id {
        arg("--project", project);
    }
    arg("--listen", listen);
    configuration.said = match (survey.own_config, &made) {
        (true, _) => "the project's own sandkeep.toml",
        (false, Some(_)) => "a sandkeep.toml made from the flags",
        (false, None) => "what is found out about the project",
    }
    .to_owned();
    configuration.made = made;
    configuration
}

fn text(survey: &Survey, install: &str, dev: &str, port: Option<u16>) -> String {
    // `${VAR}` in a value would be expanded by the configuration; commands are the shell's to expand, and no other value has one.
    let mut project = toml::Table::new();
    project.insert("root".to_owned(), survey.directory.replace('$', "$$").into());
    // An empty one is none.
    for (key, command) in [("install", install), ("dev", dev)] {
        if !command.is_empty() {
            project.insert(key.to_owned(), command.into());
        }
    }
    if let Some(port) = port {
        project.insert("port".to_owned(), i64::from(port).into());
    }
    let mut file = toml::Table::new();
    file.insert("project".to_owned(), project.into());
    format!("# Made by `sandkeep sandbox start` from its flags.\n{file}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{Flags, load_text};
    use std::collections::BTreeMap;
    use std::path::Path;

    fn survey(own_config: bool) -> Survey {
        Survey {
            place: "/h/.sandkeep/a".to_owned(),
            directory: "/h/my \"$app\"".to_owned(),
            own_config,
            ..Survey::default()
        }
    }

    fn request(install: Option<&str>, dev: Option<&str>) -> StartRequest {
        let mut request = StartRequest::new("a");
        request.install = install.map(str::to_owned);
        request.dev = dev.map(str::to_owned);
        request.port = Some(3000);
        request
    }

    #[test]
    fn the_projects_own_file_comes_first_and_flags_win_over_it() {
        let chosen = choose(&request(None, Some("npm start")), &survey(true), "off");
        let expected = [
            "--config",
            "/h/my \"$app\"/sandkeep.toml",
            "--dev",
            "npm start",
            "--port",
            "3000",
            "--listen",
            "off",
        ];
        assert_eq!((chosen.up, chosen.made), (expected.map(str::to_owned).to_vec(), None));
    }

    #[test]
    fn what_is_made_means_what_the_flags_say() {
        let chosen = choose(
            &request(Some("npm \"i\""), Some("A=${B:-1} npm run dev")),
            &survey(false),
            "0.0.0.0:7878",
        );
        assert_eq!(chosen.up, ["--config", "/h/.sandkeep/a/sandkeep.toml", "--listen", "0.0.0.0:7878"]);
        let made = chosen.made.unwrap();
        let loaded = load_text(&made, "sandkeep.toml", Path::new("/"), &Flags::default(), &BTreeMap::new());
        let config = loaded.unwrap_or_else(|said| panic!("{made}\n{said}")).config;
        assert_eq!((config.root.to_str(), config.port), (Some("/h/my \"$app\""), Some(3000)));
        let shell = |unit: &str| format!("{:?}", config.unit(unit).unwrap().main);
        assert!(shell("install").contains("npm \\\"i\\\"") && shell("dev").contains("A=${B:-1} npm run dev"));
    }

    #[test]
    fn an_empty_command_is_none() {
        let made = choose(&request(Some(""), Some("npm start")), &survey(false), "off").made.unwrap();
        let loaded = load_text(&made, "sandkeep.toml", Path::new("/"), &Flags::default(), &BTreeMap::new());
        let config = loaded.unwrap_or_else(|said| panic!("{made}\n{said}")).config;
        assert!(config.unit("install").is_none() && config.unit("dev").is_some());
    }

    #[test]
    fn half_of_the_flags_leave_the_rest_to_be_found_out() {
        let chosen = choose(&request(None, Some("npm start")), &survey(false), "off");
        assert_eq!(chosen.up, ["--dev", "npm start", "--port", "3000", "--listen", "off"]);
    }
}
