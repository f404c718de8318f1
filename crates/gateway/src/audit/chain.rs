//! The chain of hashes: each entry's covers the one before.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Entry, Row};

/// What the first entry is chained to.
pub(super) const ROOT: [u8; 32] = [0; 32];

/// Faults that are told; there may be many more, and one is enough.
const MOST_FAULTS: usize = 20;

/// The hash of an entry. Each field with its length, so that no two entries read the same.
pub(super) fn hash(before: &[u8], seq: i64, entry: &Entry) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(&seq.to_le_bytes());
    hasher.update(&entry.at.as_micros().to_le_bytes());
    hasher.update(&entry.status.to_le_bytes());
    let Entry { actor, role, action, route, target, namespace, address, code, correlation_id, request_id, .. } = entry;
    for text in [actor, role, action, route, target, namespace, address, code, correlation_id, request_id] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    // Entries of before have neither; since every text comes with its length, no entry with one reads as one without.
    if !entry.resource.is_empty() || !entry.details.is_empty() {
        for text in [&entry.resource, &entry.details] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// An entry that somebody has noted elsewhere, and that must still be there: `SEQ:HASH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    seq: i64,
    hash: String,
}

impl std::fmt::Display for Known {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.seq, self.hash)
    }
}

impl std::str::FromStr for Known {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (seq, hash) = text.split_once(':')?;
            let is_hash = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let digits = (1..=18).contains(&seq.len()) && seq.bytes().all(|byte| byte.is_ascii_digit());
            (is_hash && digits).then_some(Self { seq: seq.parse().ok()?, hash: hash.to_owned() })
        };
        read().ok_or_else(|| "must be the head that an earlier check has told, as SEQ:HASH".to_owned())
    }
}

/// What a check of the whole log has found.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
// What is found in an execution's log has the name already.
#[schema(as = AuditVerification)]
pub(crate) struct Verification {
    /// Entries that were read.
    entries: u64,
    /// The last one, as `SEQ:HASH`: note it elsewhere, and give it as `known` to the next check; null where there is none.
    head: Option<String>,
    /// What is wrong, the first twenty; empty where nothing is.
    faults: Vec<String>,
}

#[cfg(test)]
impl Verification {
    pub(super) fn head_text(&self) -> Option<String> {
        self.head.clone()
    }

    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }
}

/// Goes over the log from its first entry.
pub(super) struct Walk {
    found: Verification,
    known: Option<Known>,
    seq: i64,
    hash: Vec<u8>,
}

impl Walk {
    pub(super) fn new(known: Option<Known>) -> Self {
        Self { found: Verification { entries: 0, head: None, faults: Vec::new() }, known, seq: 0, hash: ROOT.to_vec() }
    }

    pub(super) fn step(&mut self, row: &Row) {
        self.found.entries += 1;
        if row.seq != self.seq + 1 {
            self.fault(format!("entries {} to {} are missing", self.seq + 1, row.seq - 1));
        } else if hash(&self.hash, row.seq, &row.entry).as_slice() != row.hash {
            self.fault(format!("entry {} or one before it was changed", row.seq));
        }
        if let Some(known) = self.known.take_if(|known| known.seq == row.seq)
            && known.hash != row.hash_text()
        {
            self.fault(format!("entry {} is another one than was noted", row.seq));
        }
        (self.seq, self.hash) = (row.seq, row.hash.clone());
        self.found.head = Some(format!("{}:{}", row.seq, row.hash_text()));
    }

    pub(super) fn end(mut self) -> Verification {
        if let Some(known) = self.known.take() {
            self.fault(format!("entry {}, which was noted, is not there: the end of the log was cut off", known.seq));
        }
        self.found
    }

    fn fault(&mut self, fault: String) {
        if self.found.faults.len() < MOST_FAULTS {
            self.found.faults.push(fault);
        }
    }
}
