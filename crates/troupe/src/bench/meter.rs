//! What the server says of itself: its metrics, read before and after.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, bail};
use reqwest::{
    StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use settings::Secret;

/// How long a process may take to show its metrics.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where they are, when nothing else is said.
const PATH: &str = "/metrics";

/// Reads the metrics of the server's processes.
#[derive(Debug)]
pub(super) struct Meter {
    http: reqwest::Client,
    secret: Option<HeaderValue>,
    pages: Vec<Url>,
}

/// The metrics of all processes at one time: of each name the sum over labels and processes.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample(HashMap<String, f64>);

impl Meter {
    /// Of the processes at these addresses, each `HOST:PORT` or a URL. What wants a key or a token is shown it.
    pub(super) fn new(addresses: &[String], api_key: Option<&str>, secret: Option<&Secret>) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        let mut show = |name, value: String| -> anyhow::Result<()> {
            let mut value = HeaderValue::from_str(&value).context("the key or token is no header's value")?;
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok(())
        };
        if let Some(key) = api_key {
            show(reqwest::header::HeaderName::from_static("x-api-key"), key.to_owned())?;
        }
        let secret = secret.map(|secret| HeaderValue::from_str(&format!("Bearer {}", secret.reveal()))).transpose();
        let mut secret = secret.context("the token is no header's value")?;
        if let Some(secret) = &mut secret {
            secret.set_sensitive(true);
        }
        let http = reqwest::Client::builder().timeout(PATIENCE).default_headers(headers).build()?;
        let pages = addresses.iter().map(|address| page(address)).collect::<anyhow::Result<_>>()?;
        Ok(Self { http, secret, pages })
    }

    /// How many processes there are.
    pub(super) const fn processes(&self) -> usize {
        self.pages.len()
    }

    /// Their metrics now.
    pub(super) async fn read(&self) -> anyhow::Result<Sample> {
        let mut sample = Sample::default();
        for page in &self.pages {
            let text = self.page(page).await.with_context(|| {
                format!("cannot read the metrics at {page}; name the right address with --url, or with --metrics")
            })?;
            sample.add(&text);
        }
        Ok(sample)
    }

    async fn page(&self, page: &Url) -> anyhow::Result<String> {
        let mut response = self.http.get(page.clone()).send().await?;
        // A gateway takes no token of processes; those that want it say so.
        if let Some(secret) = self.secret.clone().filter(|_| response.status() == StatusCode::UNAUTHORIZED) {
            response = self.http.get(page.clone()).header(AUTHORIZATION, secret).send().await?;
        }
        Ok(response.error_for_status()?.text().await?)
    }
}

fn page(address: &str) -> anyhow::Result<Url> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let mut url = Url::parse(&url).with_context(|| format!("{address:?} is no address of metrics"))?;
    if !matches!(url.scheme(), "http" | "https") {
        bail!("{address:?} is no address of metrics");
    }
    if url.path() == "/" {
        url.set_path(PATH);
    }
    Ok(url)
}

impl Sample {
    /// Adds a page in Prometheus' text format. Quantiles are no counts, and are left out.
    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // A label's value may have spaces in it, the value has none, and we write no times behind it.
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if labels.contains("quantile=") || name.ends_with("_bucket") {
                continue;
            }
            if let Ok(value) = value.parse::<f64>() {
                *self.0.entry(name.to_owned()).or_default() += value;
            }
        }
    }

    /// The value of a metric, where there is one.
    pub(super) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// By how much it has grown since an earlier time. What was not counted then was nothing.
    pub(super) fn since(&self, before: &Self, name: &str) -> Option<f64> {
        Some(self.get(name)? - before.get(name).unwrap_or_default())
    }

    /// The server's memory.
    pub(super) fn resident_bytes(&self) -> Option<f64> {
        self.get("process_resident_memory_bytes")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What one page says.
    pub(in crate::bench) fn sample(page: &str) -> Sample {
        let mut sample = Sample::default();
        sample.add(page);
        sample
    }

    #[test]
    fn an_address_is_enough() {
        let text = |address: &str| page(address).map(String::from).map_err(|error| error.to_string());
        assert_eq!(text("127.0.0.1:9000").unwrap(), "http://127.0.0.1:9000/metrics");
        assert_eq!(text("https://host/").unwrap(), "https://host/metrics");
        assert_eq!(text("http://host/own/metrics").unwrap(), "http://host/own/metrics");
        assert!(text("ftp://host").is_err());
        assert!(text("").is_err());
    }

    #[test]
    fn labels_and_processes_are_summed_and_quantiles_are_not() {
        let page = "# TYPE commits_seconds histogram\n\
            commits_seconds_bucket{le=\"0.5\"} 3\ncommits_seconds_sum 1.5\ncommits_seconds_count 3\n\
            events{quantile=\"0.5\"} 7\nevents_sum 21\n\
            frames{stream=\"of agents\",direction=\"in\"} 2\nframes{stream=\"of agents\",direction=\"out\"} 4\n";
        let before = sample(page);
        let mut after = before.clone();
        after.add(page);
        assert_eq!(
            (before.get("frames"), before.get("events"), before.get("commits_seconds_bucket")),
            (Some(6.0), None, None)
        );
        assert_eq!(after.since(&before, "events_sum"), Some(21.0));
        assert_eq!(after.since(&Sample::default(), "commits_seconds_count"), Some(6.0));
        assert_eq!(after.since(&before, "nothing"), None);
    }
}
