//! What clients may write into fields and parameters: each kind of text or number is a type that refuses everything else,
//! and whose schema says the same as its check.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use crate::etag;

/// Why a text was refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

macro_rules! word {
    ($(#[$doc:meta])* $name:ident($inner:ty), $check:expr, $pattern:expr, $min:expr, $max:expr, $example:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) $inner);

        impl FromStr for $name {
            type Err = Refused;

            fn from_str(text: &str) -> Result<Self, Refused> {
                let check: fn(&str) -> Result<$inner, String> = $check;
                check(text).map(Self).map_err(Refused)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some($pattern))
                    .min_length(Some($min))
                    .max_length(Some($max))
                    .examples([$example])
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        word! {
            $(#[$doc])*
            $name(domain::$name),
            |text| text.parse().map_err(|error: domain::IdError| error.to_string()),
            concat!("^", $prefix, "_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
            const { $prefix.len() + 27 }, const { $prefix.len() + 27 },
            concat!($prefix, "_01jx4q3nd8e5r0cawm6n8gs3kt")
        }
    };
}

id!(
    /// An agent's id.
    AgentId, "agt");
id!(
    /// An API key's id.
    ApiKeyId, "key");
id!(
    /// A workflow's id.
    WorkflowId, "wf");
id!(
    /// An execution's id.
    ExecutionId, "exe");
id!(
    /// A message's id.
    MessageId, "msg");
id!(
    /// A dead letter's id.
    DeadLetterId, "dlt");

word! {
    /// A name that appears in paths and routing keys: types, capabilities, signals, kinds of messages.
    Name(String),
    |text| domain::check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string()),
    "^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$", 1, 128, "credit.score"
}

word! {
    /// Whom something is for: an agent, or any of a type or with a capability.
    Target(String),
    |text| {
        let is_one = match text.split_once(':') {
            Some(("type" | "capability", name)) => domain::check_name(name).is_ok(),
            _ => text.parse::<domain::AgentId>().is_ok(),
        };
        if is_one { Ok(text.to_owned()) } else {
            Err("must be an agent's id, `type:` and a type, or `capability:` and a capability".to_owned())
        }
    },
    "^(agt_[0-7][0-9a-hjkmnp-tv-z]{25}|(type|capability):[A-Za-z0-9][A-Za-z0-9_.-]{0,127})$", 6, 139, "type:greeter"
}

word! {
    /// Whom to choose from: all of a type or with a capability.
    Group(String),
    |text| match text.split_once(':') {
        Some(("type" | "capability", name)) if domain::check_name(name).is_ok() => Ok(text.to_owned()),
        _ => Err("must be `type:` and a type, or `capability:` and a capability".to_owned()),
    },
    "^(type|capability):[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$", 6, 139, "capability:credit.score"
}

word! {
    /// Where something is published.
    Topic(String),
    |text| text.parse::<domain::Topic>().map(|_| text.to_owned()).map_err(|error| error.to_string()),
    r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$", 1, domain::MAX_TOPIC, "orders.eu.created"
}

word! {
    /// Topics: `*` stands for one word, `#` for any number of them.
    TopicPattern(String),
    |text| text.parse::<domain::TopicPattern>().map(|_| text.to_owned()).map_err(|error| error.to_string()),
    r"^([A-Za-z0-9_-]+|[*#])(\.([A-Za-z0-9_-]+|[*#]))*$", 1, domain::MAX_TOPIC, "orders.*.created"
}

word! {
    /// A name for people: one line, without space around it.
    Title(String),
    |text| {
        let length = text.chars().count();
        let well_made = (1..=128).contains(&length) && !text.chars().any(char::is_control) && text.trim() == text;
        if well_made { Ok(text.to_owned()) } else {
            Err("must have 1 to 128 characters, on one line, without space around them".to_owned())
        }
    },
    r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$", 1, 128, "underwriter-1"
}

word! {
    /// A key that ties things together: visible ASCII.
    Key(String),
    |text| {
        let well_made = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if well_made { Ok(text.to_owned()) } else { Err("must have 1 to 255 visible ASCII characters".to_owned()) }
    },
    "^[!-~]{1,255}$", 1, 255, "order-4711"
}

word! {
    /// A sentence for people.
    Remark(String),
    |text| {
        if text.chars().count() <= 2_000 { Ok(text.to_owned()) } else {
            Err("must have at most 2000 characters".to_owned())
        }
    },
    r"^[\s\S]*$", 0, 2_000, "the customer withdrew"
}

word! {
    /// `next_cursor` of the page before.
    Cursor(String),
    |text| {
        let well_made = (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if well_made { Ok(text.to_owned()) } else { Err("must be the next_cursor of the page before".to_owned()) }
    },
    "^[!-~]{1,512}$", 1, 512, "exe_01jx4q3nd8e5r0cawm6n8gs3kt"
}

word! {
    /// What `If-Match` names: entity tags, or `*` for any (RFC 9110, 13.1.1).
    EntityTags(String),
    |text| {
        let tags = || etag::list(text).is_some_and(|tags| (1..=etag::MOST).contains(&tags.len()));
        let is_trimmed = text.trim_matches([' ', '\t']) == text;
        if text == "*" || text.len() <= 1024 && is_trimmed && tags() { Ok(text.to_owned()) } else {
            Err("must be entity tags, as `ETag` has them, 4 at the most, or *".to_owned())
        }
    },
    r#"^(\*|(,[ \t,]*)?(W/)?"[!#-~]*"([ \t]*,[ \t,]*(W/)?"[!#-~]*"){0,3}([ \t]*,([ \t,]*,)?)?)$"#, 1, 1024, "\"3.9a41c0de77b1f052\""
}

word! {
    /// A place in an execution's log: the sequence number of the last event that is known.
    Position(u64),
    |text| {
        let digits = (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let refused = || "must be the sequence number of an event: 1 to 18 digits".to_owned();
        if digits { text.parse().map_err(|_| refused()) } else { Err(refused()) }
    },
    "^[0-9]{1,18}$", 1, 18, "12"
}

word! {
    /// A point in time: RFC 3339.
    Instant(domain::Timestamp),
    |text| text.parse().map_err(|error: domain::TimestampError| error.to_string()),
    r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$", 20, 40, "2026-01-31T12:00:00Z"
}

word! {
    /// Where the audit log ended at a time: the last entry's number and hash.
    Head(crate::audit::Known),
    str::parse,
    "^[0-9]{1,18}:[0-9a-f]{64}$", 66, 83,
    "7:5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592"
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $least:literal, $most:literal, $default:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) u32);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let refused = || de::Error::custom(concat!("must be a whole number from ", $least, " to ", $most));
                let number = Whole::deserialize(deserializer)?.0;
                match u32::try_from(number) {
                    Ok(number @ $least..=$most) => Ok(Self(number)),
                    Ok(_) | Err(_) => Err(refused()),
                }
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let default: Option<u32> = $default;
                ObjectBuilder::new()
                    .schema_type(Type::Integer)
                    .minimum(Some(f64::from($least)))
                    .maximum(Some(f64::from($most)))
                    .default(default.map(serde_json::Value::from))
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

number!(
    /// How many items a page has at most.
    Limit, 1_u32, 500_u32, Some(store::PageSize::DEFAULT));
number!(
    /// How many are wanted.
    Count, 1_u32, 1_000_u32, Some(1));
number!(
    /// A status of HTTP.
    Status, 100_u32, 599_u32, None);
number!(
    /// How long to wait, in milliseconds.
    WaitMillis, 0_u32, 60_000_u32, None);
number!(
    /// 0 to 9, 9 the most urgent.
    Priority, 0_u32, 9_u32, Some(5));
number!(
    /// A version that is expected.
    Version, 1_u32, 2_147_483_647_u32, None);

/// A whole number. JSON Schema counts `4.0` as one, so it is one here too.
struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Whole;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a whole number")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Whole, E> {
                Ok(Whole(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Whole, E> {
                Ok(Whole(i64::try_from(value).unwrap_or(i64::MAX)))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Whole, E> {
                if value.fract() == 0.0 { Ok(Whole(value as i64)) } else { Err(E::custom("must be a whole number")) }
            }
        }

        // The type is asked for, so that texts of queries are read as numbers.
        deserializer.deserialize_i64(Visitor)
    }
}

/// How long a message is worth delivering: seconds, or a text such as `30s`, `5m` or `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime(pub(crate) std::time::Duration);

/// A year: longer than anybody waits, and far from any overflow.
const LONGEST_LIFETIME: u64 = 365 * 24 * 60 * 60;

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Seconds(f64),
            Text(String),
        }
        let wanted = "must be seconds from 1 to 31536000, or a text such as `30s`, `5m`, `2h` or `7d`";
        let refused = || de::Error::custom(wanted);
        let seconds = match Either::deserialize(deserializer).map_err(|_| refused())? {
            Either::Seconds(seconds) if seconds.fract() == 0.0 && seconds >= 1.0 => seconds as u64,
            Either::Seconds(_) => return Err(refused()),
            Either::Text(text) => seconds_of(&text).ok_or_else(refused)?,
        };
        if (1..=LONGEST_LIFETIME).contains(&seconds) {
            Ok(Self(std::time::Duration::from_secs(seconds)))
        } else {
            Err(refused())
        }
    }
}

fn seconds_of(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let (factor, most_digits) = match unit {
        "s" => (1, 3),
        "m" => (60, 3),
        "h" => (60 * 60, 3),
        "d" => (24 * 60 * 60, 2),
        _ => return None,
    };
    // As the schema says; `parse` alone would take a sign.
    let digits = (1..=most_digits).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    if digits && !number.starts_with('0') { Some(number.parse::<u64>().ok()? * factor) } else { None }
}

impl PartialSchema for Lifetime {
    fn schema() -> RefOr<Schema> {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1.0)).maximum(Some(31_536_000.0));
        let text =
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^([1-9][0-9]{0,2}[smh]|[1-9][0-9]?d)$"));
        Schema::OneOf(utoipa::openapi::OneOfBuilder::new().item(seconds).item(text).build()).into()
    }
}

impl ToSchema for Lifetime {}

/// A moment as the API writes it: RFC 3339 in UTC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment(pub(crate) domain::Timestamp);

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl PartialSchema for Moment {
    fn schema() -> RefOr<Schema> {
        let format = utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime);
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(format))
            .examples(["2026-01-31T12:00:00.000000Z"])
            .into()
    }
}

impl ToSchema for Moment {}

macro_rules! one_of {
    ($(#[$doc:meta])* $name:ident($inner:ty), $all:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) $inner);

        impl $name {
            fn all() -> impl Iterator<Item = &'static str> {
                let all: &'static [$inner] = $all;
                all.iter().map(|one| one.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                let refused = || {
                    let all = Self::all().collect::<Vec<_>>().join(", ");
                    de::Error::custom(format_args!("must be one of {all}"))
                };
                let known = Self::all().any(|known| known == text);
                text.parse().ok().filter(|_| known).map(Self).ok_or_else(refused)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.as_str())
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some(Self::all())).into()
            }
        }

        impl ToSchema for $name {}
    };
}

one_of! {
    /// What a key or token is for.
    Role(access::Role), &access::Role::ALL
}

one_of! {
    /// One thing that can be done. What services alone do is none of these.
    Scope(access::Permission), access::Permission::ALL.split_last().map_or(&[], |(_, grantable)| grantable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_services_alone_do_is_no_scope() {
        assert_eq!(access::Permission::ALL.last(), Some(&access::Permission::Internal));
        assert!(serde_json::from_str::<Scope>(r#""internal""#).is_err());
        assert_eq!(serde_json::from_str::<Scope>(r#""agents:read""#).unwrap().0, access::Permission::AgentsRead);
        assert!(serde_json::from_str::<Role>(r#""root""#).is_err());
    }

    #[test]
    fn lifetimes_are_seconds_or_short_texts() {
        for (text, seconds) in [("30", 30), ("30.0", 30), (r#""5m""#, 300), (r#""7d""#, 604_800)] {
            assert_eq!(serde_json::from_str::<Lifetime>(text).unwrap().0.as_secs(), seconds, "{text}");
        }
        for text in [
            "0",
            "-1",
            "1.5",
            "1e300",
            r#""""#,
            r#""s""#,
            r#""+5s""#,
            r#""5é""#,
            r#""5""#,
            r#""05s""#,
            r#""100d""#,
            "null",
            "[]",
        ] {
            assert!(serde_json::from_str::<Lifetime>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_read_as_json_schema_reads_them() {
        assert_eq!(serde_json::from_str::<Limit>("5.0").unwrap(), Limit(5));
        for text in ["0", "501", "5.5", "-1", "99999999999999999999", "1e400", r#""5""#, "true"] {
            assert!(serde_json::from_str::<Limit>(text).is_err(), "{text}");
        }
    }
}
