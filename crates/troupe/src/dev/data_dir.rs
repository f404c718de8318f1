//! The data directory: made on first use, and held by one process at a time.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "the data directory {0} is in use by another process; stop that one, or give this one a directory of its own with \
         --data-dir"
    )]
    InUse(PathBuf),
    #[error(
        "the data directory {0} cannot be made or written to; mend its permissions, or name another with --data-dir"
    )]
    Unusable(PathBuf, #[source] std::io::Error),
}

/// A data directory that is ours until this value goes, or the process dies in whatever way.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// The lock is the open file's, so the system gives it back when the process ends.
    _lock: File,
}

impl DataDir {
    /// Makes the directory where it is missing, and takes it.
    pub(super) fn take(path: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Unusable(path.to_owned(), source);
        store::make_folder(path).map_err(unusable)?;
        let mut options = File::options();
        // Nothing is written into it; what counts is the lock.
        let lock = options.create(true).truncate(false).write(true).open(path.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }

    /// Where a service keeps its tables.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database(&self, service: &str) -> PathBuf {
        self.path.join(format!("{service}.db"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_by_one_and_free_again_after_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("made/on/first/use");
        let first = DataDir::take(&path).unwrap();
        assert_eq!(first.database("registry"), path.join("registry.db"));
        assert!(matches!(DataDir::take(&path), Err(Error::InUse(_))));
        drop(first);
        DataDir::take(&path).unwrap();
    }

    #[test]
    fn what_is_no_directory_cannot_be_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::take(file.path()).unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}
