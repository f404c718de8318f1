//! How values are written in Redis.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// How a value becomes bytes and comes back. What does not come back is loaded anew, so a release may change it.
#[derive(Clone, Copy, Debug)]
pub struct Codec<V> {
    /// None where it cannot be written.
    pub encode: fn(&V) -> Option<Vec<u8>>,
    /// None where it is something else.
    pub decode: fn(&[u8]) -> Option<V>,
}

impl<V: Serialize + DeserializeOwned> Codec<V> {
    /// As JSON.
    pub fn json() -> Self {
        Self { encode: |value| serde_json::to_vec(value).ok(), decode: |bytes| serde_json::from_slice(bytes).ok() }
    }
}

impl Codec<Bytes> {
    /// As they are.
    pub fn bytes() -> Self {
        Self { encode: |value| Some(value.to_vec()), decode: |bytes| Some(Bytes::copy_from_slice(bytes)) }
    }
}
