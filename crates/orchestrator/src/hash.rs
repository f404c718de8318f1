//! Maps and sets by hash.
//!
//! Their order is nobody's business, but what is done in it is a different history each time: in the tests of this crate every
//! map hashes alike, so that the simulator repeats a history from its seed alone.

#[cfg(not(test))]
type Hasher = std::hash::RandomState;
#[cfg(test)]
type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, Hasher>;
pub(crate) type HashSet<T> = std::collections::HashSet<T, Hasher>;
