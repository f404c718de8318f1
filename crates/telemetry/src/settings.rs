//! The section `telemetry`, of the process as a whole.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

/// Where spans go. Variables start with `TROUPE_TELEMETRY__`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The collector, as `http://host:4317`: OTLP over gRPC. Not set: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, else
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, else no spans; empty: no spans in any case.
    pub otlp_endpoint: Option<String>,
    /// Of the traces that begin here, how many are recorded: from 0 to 1. Those that others have begun are recorded where
    /// those say so. Default 1.
    pub sample_ratio: f64,
    /// What is said of the process besides its name and version, as `{ "deployment.environment.name" = "production" }`.
    /// `OTEL_RESOURCE_ATTRIBUTES` counts as well.
    pub resource: BTreeMap<String, String>,
    /// How long one export may take, and the last one at the end of the process. Default 5s.
    #[serde(with = "humantime_serde")]
    pub export_timeout: Duration,
    /// How long spans wait until they are exported together. Default 1s.
    #[serde(with = "humantime_serde")]
    pub export_interval: Duration,
    /// Spans that may wait; what comes when so many do is dropped. Default 8192.
    pub max_queue: usize,
    /// Spans of one export. Default 512.
    pub max_batch: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sample_ratio: 1.0,
            resource: BTreeMap::new(),
            export_timeout: Duration::from_secs(5),
            export_interval: Duration::from_secs(1),
            max_queue: 8_192,
            max_batch: 512,
        }
    }
}

impl settings::Settings for Settings {
    const SERVICE: &'static str = "telemetry";

    fn validate(&self) -> Result<(), (&'static str, String)> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(("sample_ratio", format!("must be from 0 to 1, and is {}", self.sample_ratio)));
        }
        if self.max_batch == 0 || self.max_batch > self.max_queue {
            return Err(("max_batch", format!("must be from 1 to max_queue, which is {}", self.max_queue)));
        }
        if self.export_timeout.is_zero() || self.export_interval.is_zero() {
            return Err(("export_timeout", "it and export_interval must be longer than nothing".to_owned()));
        }
        Ok(())
    }
}

impl Settings {
    /// The collector; none where spans are off.
    pub(crate) fn endpoint(&self, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
        let standard = || {
            ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
                .into_iter()
                .find_map(|name| variable(name).filter(|value| !value.is_empty()))
        };
        self.otlp_endpoint.clone().or_else(standard).filter(|endpoint| !endpoint.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use settings::Settings as _;

    use super::*;

    #[test]
    fn our_own_word_counts_before_the_standard_variables() {
        let variable = |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://standard:4317".to_owned());
        let with = |endpoint: Option<&str>| {
            let settings = Settings { otlp_endpoint: endpoint.map(str::to_owned), ..Settings::default() };
            settings.endpoint(variable)
        };
        assert_eq!(with(None).as_deref(), Some("http://standard:4317"));
        assert_eq!(with(Some("http://own:4317")).as_deref(), Some("http://own:4317"));
        assert_eq!(with(Some("")), None);
        assert_eq!(Settings::default().endpoint(|_| None), None);
    }

    #[test]
    fn rules_name_the_culprit() {
        let culprit = |settings: Settings| settings.validate().err().map(|(field, _)| field);
        assert_eq!(culprit(Settings::default()), None);
        assert_eq!(culprit(Settings { sample_ratio: 1.5, ..Settings::default() }), Some("sample_ratio"));
        assert_eq!(culprit(Settings { sample_ratio: f64::NAN, ..Settings::default() }), Some("sample_ratio"));
        assert_eq!(culprit(Settings { max_batch: 9_000, ..Settings::default() }), Some("max_batch"));
    }
}
