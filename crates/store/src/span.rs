//! The spans of statements, as OpenTelemetry names them.

use tracing::{Level, Span};

use crate::{Postgres, Sqlite};

impl Sqlite {
    /// A span around statements of one kind on a table; see [`Postgres::span`].
    pub fn span(&self, operation: &'static str, table: &'static str) -> Span {
        span("sqlite", operation, table)
    }
}

impl Postgres {
    /// A span around statements of one kind on a table, as a part of what asks for them. Without that there is none: what a
    /// service does for itself, again and again, is no trace of anything.
    pub fn span(&self, operation: &'static str, table: &'static str) -> Span {
        span("postgresql", operation, table)
    }
}

fn span(system: &'static str, operation: &'static str, table: &'static str) -> Span {
    if !tracing::span_enabled!(Level::INFO) || Span::current().is_disabled() {
        return Span::none();
    }
    tracing::info_span!(
        "db.query",
        otel.name = format!("{operation} {table}"),
        otel.kind = "client",
        db.system.name = system,
        db.operation.name = operation,
        db.collection.name = table,
    )
}
