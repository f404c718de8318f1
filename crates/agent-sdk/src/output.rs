//! What a handler answers with.

use bytes::Bytes;
use serde::Serialize;

use crate::Failure;

/// A JSON text, not looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output(Bytes);

impl Output {
    /// From JSON text that is known to be JSON, such as a task's input. What is not JSON fails the step that gets it.
    pub const fn from_json(json: Bytes) -> Self {
        Self(json)
    }

    /// The JSON text.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// What can be a handler's answer: everything that serializes, and [`Output`] as it is.
pub trait IntoOutput {
    /// The JSON text.
    fn into_output(self) -> Result<Output, Failure>;
}

impl IntoOutput for Output {
    fn into_output(self) -> Result<Output, Failure> {
        Ok(self)
    }
}

impl<T: Serialize> IntoOutput for T {
    fn into_output(self) -> Result<Output, Failure> {
        let json = serde_json::to_vec(&self);
        json.map(|json| Output(json.into()))
            .map_err(|error| Failure::fatal("invalid_output", format!("the output is not a JSON value: {error}")))
    }
}
