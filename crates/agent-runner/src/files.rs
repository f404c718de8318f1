//! Files of `data` agents, confined to one folder.
//!
//! A path is relative to the folder and has no `..`; links are followed, and what they lead to must lie in the folder too.
//! Writing is confined further, to one folder in it. A write is a whole new file that replaces the old one at once, so that
//! doing it again changes nothing and a reader never sees half of it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Component, Path, PathBuf},
};

use agent_sdk::Failure;

use crate::{Settings, StartError};

/// The folder of the `data` agents.
#[derive(Debug)]
pub(crate) struct Files {
    /// Canonical.
    root: PathBuf,
    /// Below it; may not exist yet.
    write_root: PathBuf,
    write_dir: PathBuf,
    /// Canonical; hidden from agents.
    private: Option<PathBuf>,
    limit: usize,
}

impl Files {
    pub(crate) fn new(settings: &Settings) -> Result<Self, StartError> {
        let root = fs::canonicalize(&settings.files_dir);
        let root = root.map_err(|source| StartError::FilesDir { path: settings.files_dir.clone(), source })?;
        let write_dir = settings.write_dir.clone();
        if !is_plain(&write_dir) {
            return Err(StartError::WriteDir(write_dir));
        }
        let private = settings.private_dir.as_ref().map(fs::canonicalize).transpose();
        let private = private.map_err(|source| StartError::FilesDir { path: settings.files_dir.clone(), source })?;
        Ok(Self { write_root: root.join(&write_dir), root, private, write_dir, limit: settings.max_file_size.0 })
    }

    /// The content of a file. Failures: `path_not_allowed`, `file_not_found`, `file_too_large`, `file_error` (retryable).
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let relative = Path::new(path);
        if !is_plain(relative) {
            return Err(not_allowed(path, "must be relative to the agents' folder, without `..`"));
        }
        let real = fs::canonicalize(self.root.join(relative)).map_err(|error| file_error(path, &error))?;
        if !real.starts_with(&self.root) {
            return Err(not_allowed(path, "leads out of the agents' folder"));
        }
        if self.private.as_ref().is_some_and(|private| real.starts_with(private)) {
            return Err(not_allowed(path, "belongs to the server"));
        }
        // Asked before it is opened: opening a pipe waits for its other end.
        let metadata = fs::metadata(&real).map_err(|error| file_error(path, &error))?;
        if !metadata.is_file() {
            return Err(not_allowed(path, "is no regular file"));
        }
        let file = File::open(real).map_err(|error| file_error(path, &error))?;
        let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0).min(self.limit));
        // The file may grow while it is read: one byte more than the limit tells.
        file.take(self.limit as u64 + 1).read_to_end(&mut content).map_err(|error| file_error(path, &error))?;
        if content.len() > self.limit {
            return Err(Failure::fatal("file_too_large", format!("{path:?} has more than {} bytes", self.limit)));
        }
        Ok(content)
    }

    /// Replaces a file, with its folders made where they are missing. Failures as of [`Files::read`].
    pub(crate) fn write(&self, path: &str, content: &[u8]) -> Result<(), Failure> {
        let relative = Path::new(path);
        let inside = relative
            .strip_prefix(&self.write_dir)
            .ok()
            .filter(|inside| is_plain(inside) && inside.file_name().is_some());
        let Some(inside) = inside.filter(|_| is_plain(relative)) else {
            let folder = self.write_dir.display();
            return Err(not_allowed(
                path,
                &format!("must lie in `{folder}/`, without `..`: agents write nowhere else"),
            ));
        };
        if content.len() > self.limit {
            return Err(Failure::fatal(
                "file_too_large",
                format!("{path:?} would have more than {} bytes", self.limit),
            ));
        }
        let target = self.write_root.join(inside);
        let folder = target.parent().unwrap_or(&self.write_root);
        self.make_folder(path, folder)?;
        replace(folder, &target, content).map_err(|error| file_error(path, &error))
    }

    /// Makes `folder` one part at a time, so that a link on the way is noticed before anything is made behind it.
    fn make_folder(&self, path: &str, folder: &Path) -> Result<(), Failure> {
        let mut so_far = self.root.clone();
        for part in folder.strip_prefix(&self.root).unwrap_or(folder).components() {
            so_far.push(part);
            match fs::create_dir(&so_far) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(file_error(path, &error)),
            }
            let real = fs::canonicalize(&so_far).map_err(|error| file_error(path, &error))?;
            if real != so_far {
                return Err(not_allowed(path, "has a link on its way; agents write through none"));
            }
        }
        Ok(())
    }
}

fn replace(folder: &Path, target: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".troupe-").tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(target)?;
    File::open(folder)?.sync_all()
}

/// Relative, and going down only.
fn is_plain(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn not_allowed(path: &str, why: &str) -> Failure {
    Failure::fatal("path_not_allowed", format!("the path {path:?} {why}"))
}

fn file_error(path: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::fatal("file_not_found", format!("there is no file {path:?} in the agents' folder"))
        }
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename => not_allowed(path, &format!("cannot be used: {error}")),
        _ => Failure::transient("file_error", format!("{path:?}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn files(limit: usize) -> (tempfile::TempDir, Files) {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("inside");
        fs::create_dir(&root).unwrap();
        fs::write(outer.path().join("secret"), "s").unwrap();
        let settings = Settings { files_dir: root, max_file_size: settings::ByteSize(limit), ..Settings::default() };
        let files = Files::new(&settings).unwrap();
        (outer, files)
    }

    #[test]
    fn what_is_written_reads_back_and_again() {
        let (_outer, files) = files(100);
        for content in ["one", "two"] {
            files.write("output/a/b.txt", content.as_bytes()).unwrap();
            assert_eq!(files.read("output/a/b.txt").unwrap(), content.as_bytes());
        }
        assert_eq!(fs::read_dir(files.write_root.join("a")).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn no_path_leads_out() {
        let (outer, files) = files(100);
        symlink(outer.path(), files.root.join("link")).unwrap();
        symlink(outer.path().join("secret"), files.root.join("direct")).unwrap();
        for path in [
            "../secret",
            "/etc/hostname",
            "link/secret",
            "direct",
            "",
            ".",
            "a/../../secret",
            "output/../../secret",
            "\0",
        ] {
            assert_eq!(files.read(path).unwrap_err().code, "path_not_allowed", "{path:?}");
        }
        fs::create_dir(files.root.join("output")).unwrap();
        symlink(outer.path(), files.root.join("output/link")).unwrap();
        for path in ["x", "../x", "/tmp/x", "output", "output/../x", "output/link/x", "outputs/x"] {
            assert_eq!(files.write(path, b"x").unwrap_err().code, "path_not_allowed", "{path:?}");
        }
        assert!(!outer.path().join("x").exists());
    }

    #[test]
    fn what_belongs_to_the_server_is_hidden() {
        let outer = tempfile::tempdir().unwrap();
        let data = outer.path().join(".troupe");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("registry.db"), "s").unwrap();
        fs::write(outer.path().join("mine.csv"), "s").unwrap();
        symlink(&data, outer.path().join("link")).unwrap();
        let settings = Settings { files_dir: outer.path().to_owned(), private_dir: Some(data), ..Settings::default() };
        let files = Files::new(&settings).unwrap();
        for path in [".troupe/registry.db", "link/registry.db"] {
            assert_eq!(files.read(path).unwrap_err().code, "path_not_allowed", "{path}");
        }
        assert_eq!(files.read("mine.csv").unwrap(), b"s");
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_its_other_end() {
        let (_outer, files) = files(100);
        let made = std::process::Command::new("mkfifo").arg(files.root.join("pipe")).status().unwrap();
        assert!(made.success());
        assert_eq!(files.read("pipe").unwrap_err().code, "path_not_allowed");
    }

    #[test]
    fn large_and_missing_files_are_refused() {
        let (_outer, files) = files(3);
        fs::write(files.root.join("large"), "1234").unwrap();
        assert_eq!(files.read("large").unwrap_err().code, "file_too_large");
        assert_eq!(files.read("none").unwrap_err().code, "file_not_found");
        assert_eq!(files.write("output/large", b"1234").unwrap_err().code, "file_too_large");
    }
}
