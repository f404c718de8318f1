//! Spans, on their way to a collector.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _, tonic_types::transport::ClientTlsConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::FilterFn, registry::LookupSpan};

use crate::{Error, Settings};

/// What makes spans; none where no collector is set. Within the runtime that is to carry them away.
pub(crate) fn provider(service: &str, settings: &Settings) -> Result<Option<SdkTracerProvider>, Error> {
    let Some(endpoint) = settings.endpoint(|name| std::env::var(name).ok()) else { return Ok(None) };
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint.clone())
        .with_timeout(settings.export_timeout);
    if endpoint.starts_with("https://") {
        exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    let exporter = exporter.build().map_err(|source| Error::Exporter { endpoint: endpoint.clone(), source })?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(settings.max_queue)
        .with_max_export_batch_size(settings.max_batch)
        .with_scheduled_delay(settings.export_interval)
        .build();
    let exporter = Told { exporter, endpoint, is_failing: AtomicBool::new(false) };
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))))
        .with_resource(resource(service, settings))
        .build();
    Ok(Some(provider))
}

fn resource(service: &str, settings: &Settings) -> Resource {
    let said = settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        // Replicas of a service have the same name.
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
        .with_attributes(said)
        .build()
}

/// Turns spans into those of OpenTelemetry, and warnings within them into their events.
pub(crate) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_kept = FilterFn::new(|metadata| {
        let least = if metadata.is_span() { Level::INFO } else { Level::WARN };
        *metadata.level() <= least
    });
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("troupe"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(is_kept.with_max_level_hint(LevelFilter::INFO))
}

/// An exporter whose failures are told, once until it works again: the library keeps them to itself.
#[derive(Debug)]
struct Told<E> {
    exporter: E,
    endpoint: String,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !was_failing => {
                let endpoint = &self.endpoint;
                tracing::warn!(%error, endpoint, spans, "spans cannot be exported, and are lost until they can");
            }
            Ok(()) if was_failing => tracing::info!(endpoint = self.endpoint, "spans are exported again"),
            Ok(()) | Err(_) => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
