//! JSON text to a tree, with what serde hides: keys that come twice; and the order of faults in the text.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Fault, Faults, MAX_FAULTS, escape};

/// The tree, or the one fault that keeps it from being one. The depth is bounded by the parser (128).
pub(super) fn parse(json: &[u8], faults: &mut Faults) -> Result<Value, Fault> {
    let invalid = |error: serde_json::Error| Fault {
        pointer: String::new(),
        code: "invalid_json",
        message: format!("not JSON: {error}"),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut tree = Tree { pointer: String::new(), faults };
    let value = (&mut tree).deserialize(&mut deserializer).map_err(invalid)?;
    deserializer.end().map_err(invalid)?;
    Ok(value)
}

/// Builds a tree, and knows where in it the text is.
struct Tree<'a> {
    pointer: String,
    faults: &'a mut Faults,
}

impl<'de> DeserializeSeed<'de> for &mut Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Tree<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        let length = self.pointer.len();
        loop {
            write!(self.pointer, "/{}", elements.len()).map_err(A::Error::custom)?;
            let element = list.next_element_seed(&mut *self)?;
            self.pointer.truncate(length);
            match element {
                Some(element) => elements.push(element),
                None => return Ok(Value::Array(elements)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        let length = self.pointer.len();
        while let Some(key) = map.next_key::<String>()? {
            write!(self.pointer, "/{}", escape(&key)).map_err(A::Error::custom)?;
            if fields.contains_key(&key) {
                self.faults.push(&self.pointer, "duplicate_key", format!("`{key}` comes twice; remove one of them"));
            }
            let value = map.next_value_seed(&mut *self)?;
            self.pointer.truncate(length);
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

/// The faults in the order of the document, each once; several at one place in the order in which they were found.
pub(super) fn sorted(faults: Faults, document: &Value) -> Vec<Fault> {
    let Faults { list: mut faults, dropped } = faults;
    let mut places: HashMap<String, usize> = faults.iter().map(|fault| (fault.pointer.clone(), usize::MAX)).collect();
    let mut next = 0;
    number(document, &mut String::new(), &mut next, &mut places);
    faults.sort_by_key(|fault| places.get(&fault.pointer).copied().unwrap_or(usize::MAX));
    faults.dedup();
    if dropped {
        let message = format!("there are more than {MAX_FAULTS} faults; mend these first");
        faults.push(Fault { pointer: String::new(), code: "too_many_faults", message });
    }
    faults
}

/// Numbers the places that are asked for, in the order of the document.
fn number(value: &Value, pointer: &mut String, next: &mut usize, places: &mut HashMap<String, usize>) {
    if let Some(place) = places.get_mut(pointer.as_str()) {
        *place = *next;
    }
    *next += 1;
    let length = pointer.len();
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                // Writing to a String cannot fail.
                let _ = write!(pointer, "/{index}");
                number(element, pointer, next, places);
                pointer.truncate(length);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                pointer.push('/');
                pointer.push_str(&escape(key));
                number(field, pointer, next, places);
                pointer.truncate(length);
            }
        }
    }
}
