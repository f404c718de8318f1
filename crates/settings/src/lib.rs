//! How settings are read: defaults in code, then a TOML file, then the environment, then flags; later wins.
//!
//! `TROUPE_ORCHESTRATOR__DATABASE__MAX_CONNECTIONS=20` sets `database.max_connections` of the orchestrator: two underscores
//! descend, one belongs to the name. Unknown keys are refused, with their names. Each service documents its own options;
//! the sections that several share are here.

mod bytes;
mod database;

use std::path::Path;

use figment::{
    Figment,
    providers::{Env, Format as _, Serialized, Toml},
};
use serde::{Serialize, de::DeserializeOwned};

pub use bytes::ByteSize;
pub use database::Database;

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
        let figment = figment.merge(Env::prefixed(&prefix).split("__"));
        let invalid = |source| Error::Invalid { service: Self::SERVICE, source: Box::new(source) };
        let settings: Self = figment.extract().map_err(invalid)?;
        settings.validate().map_err(|(field, message)| Error::Rule { service: Self::SERVICE, field, message })?;
        Ok(settings)
    }
}
