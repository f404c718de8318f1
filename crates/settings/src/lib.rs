//! How settings are read: defaults in code, then a TOML file, then the environment, then flags; later wins.
//!
//! `TROUPE_ORCHESTRATOR__DATABASE__MAX_CONNECTIONS=20` sets `database.max_connections` of the orchestrator: two underscores
//! descend, one belongs to the name. Unknown keys are refused, with their names. Each service documents its own options;
//! the sections that several share are here.

mod bytes;
mod database;
mod redis;
mod secret;

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    error::{Actual, Kind},
    providers::{Env, Format as _, Serialized, Toml},
};
use serde::{Serialize, de::DeserializeOwned};

pub use bytes::ByteSize;
pub use database::{Database, Place};
pub use redis::Redis;
pub use secret::Secret;

/// Why settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key is unknown or a value does not fit; the text names both and where they come from.
    #[error("invalid settings for {service}")]
    Invalid {
        /// The service.
        service: &'static str,
        /// What is wrong.
        #[source]
        source: Box<figment::Error>,
    },
    /// The file cannot be read.
    #[error("cannot read the settings in {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<figment::Error>,
    },
    /// A table of the file, or the first part of a variable, names no service.
    #[error("{place} sets something for {name:?}, which is no service; there are {known}")]
    UnknownService {
        /// The file or the variable.
        place: String,
        /// What it names.
        name: String,
        /// What it could name.
        known: String,
    },
    /// A rule over several settings is broken.
    #[error("invalid settings for {service}: {field}: {message}")]
    Rule {
        /// The service.
        service: &'static str,
        /// The culprit.
        field: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
}

/// Refuses a file with tables, and variables, that no service would read: a typo in a name must not pass unnoticed.
pub fn check_names(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = String>,
    services: &[&str],
) -> Result<(), Error> {
    let unknown = |place: String, name: String| Error::UnknownService { place, name, known: services.join(", ") };
    if let Some(path) = file {
        let tables: figment::value::Dict = Figment::from(Toml::file_exact(path))
            .extract()
            .map_err(|source| Error::File { path: path.to_owned(), source: Box::new(untold(source)) })?;
        if let Some(name) = tables.into_keys().find(|name| !services.contains(&name.as_str())) {
            return Err(unknown(path.display().to_string(), name));
        }
    }
    for variable in variables {
        let named = variable.strip_prefix("TROUPE_").and_then(|rest| rest.split_once("__"));
        let Some(name) = named.map(|(name, _)| name.to_lowercase().replace('_', "-")) else { continue };
        if !services.contains(&name.as_str()) {
            return Err(unknown(variable, name));
        }
    }
    Ok(())
}

/// The settings of one service. Implementations set `#[serde(default, deny_unknown_fields)]`.
pub trait Settings: Serialize + DeserializeOwned + Default {
    /// The service's name: its table in the file, and its part in the names of variables (`-` becomes `_`).
    const SERVICE: &'static str;

    /// Checks rules over several fields: the culprit's name and what is wrong with it.
    fn validate(&self) -> Result<(), (&'static str, String)> {
        Ok(())
    }

    /// Reads the settings: defaults, then the service's table in `file`, then the environment.
    fn load(file: Option<&Path>) -> Result<Self, Error> {
        let prefix = format!("TROUPE_{}__", Self::SERVICE.replace('-', "_").to_uppercase());
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            // One file holds all services, each in its own table.
            let table = Figment::from(Toml::file_exact(path)).focus(Self::SERVICE);
            figment = figment.merge(table);
        }
        let variables = Env::prefixed(&prefix).split("__");
        // Those with zeros in front are no numbers: a secret keeps them.
        let padded: Vec<_> = variables.iter().filter(|(_, text)| is_padded(text)).collect();
        let figment = padded.into_iter().fold(figment.merge(variables), |figment, (key, text)| {
            figment.merge(Serialized::default(key.as_str(), text))
        });
        let invalid = |source| Error::Invalid { service: Self::SERVICE, source: Box::new(untold(source)) };
        let settings: Self = figment.extract().map_err(invalid)?;
        settings.validate().map_err(|(field, message)| Error::Rule { service: Self::SERVICE, field, message })?;
        Ok(settings)
    }
}

/// Is it a whole number that would be printed in another way than it is written?
fn is_padded(text: &str) -> bool {
    text.parse::<i128>().is_ok_and(|number| number.to_string() != text)
}

/// Without what may be a secret: lines of the file, and a text that stands where a whole section belongs, as a URL would.
fn untold(mut error: figment::Error) -> figment::Error {
    match &mut error.kind {
        Kind::InvalidType(actual @ Actual::Str(_), expected) if expected.starts_with("struct ") => {
            *actual = Actual::Other("a text".to_owned());
        }
        Kind::Message(message) if message.contains('\n') => {
            let lines: Vec<_> = message.lines().filter(|line| !line.contains('|')).collect();
            *message = lines.join("\n");
        }
        _ => {}
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_service_would_read_is_refused_by_its_name() {
        let folder = std::env::temp_dir().join(format!("troupe-settings-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("good.toml"), "[gateway]\nlisten = 1\n").unwrap();
        std::fs::write(folder.join("bad.toml"), "[gatewayy]\n").unwrap();
        let services = ["gateway", "agent-runner"];
        let check = |file: &str, variable: &str| {
            let refused = check_names(Some(&folder.join(file)), [variable.to_owned()], &services);
            refused.map_err(|error| error.to_string())
        };
        assert_eq!(check("good.toml", "TROUPE_AGENT_RUNNER__MAX_ROWS"), Ok(()));
        assert_eq!(check("good.toml", "TROUPE_URL"), Ok(()));
        assert!(check("bad.toml", "PATH").unwrap_err().contains("gatewayy"));
        assert!(check("good.toml", "TROUPE_GATEWAYS__MAX_BODY").unwrap_err().contains("TROUPE_GATEWAYS__MAX_BODY"));
        assert!(check("none.toml", "PATH").unwrap_err().contains("none.toml"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
