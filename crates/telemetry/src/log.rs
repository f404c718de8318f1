//! What a log line looks like: its own fields, and the ids of the trace and the request that it belongs to.

use std::fmt;

use serde::ser::{SerializeMap as _, Serializer as _};
use tracing::{Event, Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_serde::{AsSerde as _, SerdeMapVisitor};
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{DefaultFields, Writer},
        time::{FormatTime as _, SystemTime},
    },
    layer::{Context, Filter},
    registry::LookupSpan,
};

/// A filter that lets no spans through: a line's ids say where it belongs, so that no span has to be formatted, nor made.
pub(crate) struct Events(pub(crate) EnvFilter);

impl<S> Filter<S> for Events {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        !metadata.is_span() && Filter::enabled(&self.0, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_span() { Interest::never() } else { Filter::<S>::callsite_enabled(&self.0, metadata) }
    }

    fn event_enabled(&self, event: &Event<'_>, context: &Context<'_, S>) -> bool {
        Filter::event_enabled(&self.0, event, context)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.0)
    }
}

/// The fields of a line for people, followed by its ids.
pub(crate) struct ReadableFields;

impl<'writer> FormatFields<'writer> for ReadableFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        DefaultFields::new().format_fields(writer.by_ref(), fields)?;
        let trace::Ids { trace, span, correlation } = trace::ids();
        if let Some(trace) = trace {
            write!(writer, " trace_id={trace}")?;
        }
        if let Some(span) = span {
            write!(writer, " span_id={span}")?;
        }
        match correlation {
            Some(correlation) => write!(writer, " correlation_id={correlation}"),
            None => Ok(()),
        }
    }
}

/// One JSON object per line, everything at its top.
pub(crate) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let line = line(event).map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", String::from_utf8_lossy(&line))
    }
}

fn line(event: &Event<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let mut at = String::new();
    // Without a time the line is worth more than no line.
    let _ = SystemTime.format_time(&mut Writer::new(&mut at));
    let mut line = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &at)?;
    map.serialize_entry("level", &event.metadata().level().as_serde())?;
    let mut fields = SerdeMapVisitor::new(map);
    event.record(&mut fields);
    let mut map = fields.take_serializer()?;
    map.serialize_entry("target", event.metadata().target())?;
    let trace::Ids { trace, span, correlation } = trace::ids();
    if let Some(trace) = trace {
        map.serialize_entry("trace_id", &trace.to_string())?;
    }
    if let Some(span) = span {
        map.serialize_entry("span_id", &span.to_string())?;
    }
    if let Some(correlation) = correlation {
        map.serialize_entry("correlation_id", &*correlation)?;
    }
    map.end()?;
    Ok(line)
}
