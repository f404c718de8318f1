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

/// What readers of logs take for the end of a line.
const fn ends_line(char: char) -> bool {
    matches!(char, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Passes text on without what ends a line: who can say something that is logged writes no line of their own.
struct OneLine<'a, 'writer>(&'a mut Writer<'writer>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(ends_line) {
            match piece.char_indices().next_back().filter(|(_, last)| ends_line(*last)) {
                Some((at, last)) => write!(self.0, "{}{}", &piece[..at], last.escape_default())?,
                None => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

/// The fields of a line for people, followed by its ids.
pub(crate) struct ReadableFields;

impl<'writer> FormatFields<'writer> for ReadableFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        // Without styles for the names: what comes in a value must not be taken for one.
        DefaultFields::new().format_fields(Writer::new(&mut OneLine(&mut writer)), fields)?;
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

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const WORD: &str = "a\nb\r\nc\u{85}d\u{2028}e\u{2029}f\u{b}g\u{c}";

    fn said(
        log: impl FnOnce(Said) -> Box<dyn tracing_subscriber::Layer<tracing_subscriber::Registry> + Send + Sync>,
    ) -> String {
        let said = Said::default();
        let subscriber = tracing_subscriber::registry().with(log(said.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(shown = %WORD, text = WORD, debug = ?WORD, "said {WORD}");
        });
        let bytes = said.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_for_people_is_one_line_whatever_is_in_it() {
        use tracing_subscriber::Layer as _;
        let said = said(|said| {
            let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || said.clone());
            layer.fmt_fields(ReadableFields).boxed()
        });
        let line = said.strip_suffix('\n').unwrap();
        assert!(!line.contains(ends_line), "{line:?}");
        assert!(line.contains(r"said a\nb\r\nc\u{85}d\u{2028}e\u{2029}f\u{b}g"), "{line}");
    }

    #[test]
    fn a_line_for_machines_is_one_document_whatever_is_in_it() {
        use tracing_subscriber::Layer as _;
        let said =
            said(|said| tracing_subscriber::fmt::layer().with_writer(move || said.clone()).event_format(Json).boxed());
        let line = said.strip_suffix('\n').unwrap();
        assert!(!line.contains(['\n', '\r']), "{line:?}");
        let read: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&read["message"], &read["shown"]), (&format!("said {WORD}").into(), &WORD.into()));
    }
}
