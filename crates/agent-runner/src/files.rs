//! Files of `data` agents, confined to one folder.
//!
//! A path is relative to the folder and has no `..`; links are followed, and what they lead to must lie in the folder too.
//! Writing is confined further, to one folder in it. A write is a whole new file that replaces the old one at once, so that
//! doing it again changes nothing and a reader never sees half of it.
//!
//! What was checked is what is opened: folder by folder from the one that is held open, and through no link. Whoever puts a link, a
//! pipe or another folder on the way meanwhile has it refused.

use std::{
    ffi::OsStr,
    fs::{self, File},
    hash::{BuildHasher as _, RandomState},
    io::{self, Read as _, Write as _},
    path::{Component, Path, PathBuf},
};

use agent_sdk::Failure;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, renameat},
    sys::stat::{Mode, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use crate::{Settings, StartError};

/// A folder, and nothing that leads to one.
const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// A file to read. Opening a pipe does not wait for its other end.
const FILE: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);
/// A file that is not there yet.
const NEW: OFlag =
    OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The folder of the `data` agents.
#[derive(Debug)]
pub(crate) struct Files {
    /// Canonical.
    root: PathBuf,
    /// The same, held open.
    opened: File,
    /// Below it; may not exist yet.
    write_dir: PathBuf,
    /// Canonical; hidden from agents.
    private: Option<PathBuf>,
    limit: usize,
}

impl Files {
    pub(crate) fn new(settings: &Settings) -> Result<Self, StartError> {
        let unusable = |source| StartError::FilesDir { path: settings.files_dir.clone(), source };
        let root = fs::canonicalize(&settings.files_dir).map_err(unusable)?;
        let opened = File::open(&root).map_err(unusable)?;
        let write_dir = settings.write_dir.clone();
        if !is_plain(&write_dir) {
            return Err(StartError::WriteDir(write_dir));
        }
        let private = settings.private_dir.as_ref().map(fs::canonicalize).transpose().map_err(unusable)?;
        Ok(Self { root, opened, private, write_dir, limit: settings.max_file_size.0 })
    }

    /// The content of a file. Failures: `path_not_allowed`, `file_not_found`, `file_too_large`, `file_error` (retryable).
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let file = self.open(path, &self.resolve(path)?)?;
        let length = file.metadata().map_err(|error| file_error(path, &error))?.len();
        let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0).min(self.limit));
        // The file may grow while it is read: one byte more than the limit tells.
        file.take(self.limit as u64 + 1).read_to_end(&mut content).map_err(|error| file_error(path, &error))?;
        if content.len() > self.limit {
            return Err(Failure::fatal("file_too_large", format!("{path:?} has more than {} bytes", self.limit)));
        }
        Ok(content)
    }

    /// Where a path leads, below the root and without links.
    fn resolve(&self, path: &str) -> Result<PathBuf, Failure> {
        let relative = Path::new(path);
        if !is_plain(relative) {
            return Err(not_allowed(path, "must be relative to the agents' folder, without `..`"));
        }
        let real = fs::canonicalize(self.root.join(relative)).map_err(|error| file_error(path, &error))?;
        if self.private.as_ref().is_some_and(|private| real.starts_with(private)) {
            return Err(not_allowed(path, "belongs to the server"));
        }
        let inside = real.strip_prefix(&self.root).map_err(|_| not_allowed(path, "leads out of the agents' folder"))?;
        // Asked before it is opened: opening a device may do something.
        if !fs::metadata(&real).map_err(|error| file_error(path, &error))?.is_file() {
            return Err(not_allowed(path, "is no regular file"));
        }
        Ok(inside.to_owned())
    }

    /// Opens what a path was resolved to, where it is still that.
    fn open(&self, path: &str, inside: &Path) -> Result<File, Failure> {
        let failed = |errno: Errno| file_error(path, &errno.into());
        let (folder, name) = self.descend(inside, |_, _| Ok(())).map_err(failed)?;
        let file = File::from(openat(&folder, name, FILE, Mode::empty()).map_err(failed)?);
        let is_file = file.metadata().map_err(|error| file_error(path, &error))?.is_file();
        if is_file { Ok(file) } else { Err(not_allowed(path, "is no regular file")) }
    }

    /// Replaces a file, with its folders made where they are missing. Failures as of [`Files::read`].
    pub(crate) fn write(&self, path: &str, content: &[u8]) -> Result<(), Failure> {
        let relative = Path::new(path);
        let inside = relative.strip_prefix(&self.write_dir).ok();
        let is_inside = inside.is_some_and(|inside| is_plain(inside) && inside.file_name().is_some());
        if !is_inside || !is_plain(relative) {
            let folder = self.write_dir.display();
            return Err(not_allowed(
                path,
                &format!("must lie in `{folder}/`, without `..`: agents write nowhere else"),
            ));
        }
        if content.len() > self.limit {
            return Err(Failure::fatal(
                "file_too_large",
                format!("{path:?} would have more than {} bytes", self.limit),
            ));
        }
        let make = |folder: &File, name: &OsStr| match mkdirat(folder, name, Mode::from_bits_truncate(0o777)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error),
        };
        let placed = self.descend(relative, make).map_err(io::Error::from);
        let replaced = placed.and_then(|(folder, name)| replace(&folder, name, content));
        replaced.map_err(|error| file_error(path, &error))
    }

    /// The folder of a file, and its name. Goes through no link; `before` each folder something is done in the one that it is in.
    fn descend<'a>(
        &self,
        inside: &'a Path,
        before: impl Fn(&File, &OsStr) -> nix::Result<()>,
    ) -> nix::Result<(File, &'a OsStr)> {
        let name = inside.file_name().ok_or(Errno::EISDIR)?;
        let mut folder = File::from(openat(&self.opened, ".", FOLDER, Mode::empty())?);
        for part in inside.parent().into_iter().flat_map(Path::components) {
            if let Component::Normal(part) = part {
                before(&folder, part)?;
                folder = File::from(openat(&folder, part, FOLDER, Mode::empty())?);
            }
        }
        Ok((folder, name))
    }
}

/// Writes a new file, and has it take the place of the one that was there.
fn replace(folder: &File, name: &OsStr, content: &[u8]) -> io::Result<()> {
    let new = format!(".troupe-{:016x}", RandomState::new().hash_one(name));
    let mut file = File::from(openat(folder, new.as_str(), NEW, Mode::from_bits_truncate(0o600))?);
    let replaced = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(renameat(folder, new.as_str(), folder, name)?));
    if replaced.is_err() {
        // Nothing more can be done about it.
        let _ = unlinkat(folder, new.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    replaced.and_then(|()| folder.sync_all())
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
        // A link where there should be none: it was not there when the path was looked at, or agents write through none.
        _ if error.raw_os_error() == Some(Errno::ELOOP as i32) => not_allowed(path, "has a link on its way"),
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
        assert_eq!(fs::read_dir(files.root.join("output/a")).unwrap().count(), 1, "nothing temporary is left");
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

    /// What is put in the place of what was looked at is not what is opened.
    #[test]
    fn what_is_swapped_after_it_was_looked_at_is_refused() {
        let (outer, files) = files(100);
        let path = "folder/inner/file";
        let swap = |at: &str, to: &dyn Fn(&Path)| {
            let _ = fs::remove_dir_all(files.root.join("folder"));
            fs::create_dir_all(files.root.join("folder/inner")).unwrap();
            fs::write(files.root.join(path), "mine").unwrap();
            fs::create_dir_all(outer.path().join("inner")).unwrap();
            fs::write(outer.path().join("inner/file"), "s").unwrap();
            let inside = files.resolve(path).unwrap();
            let mut content = String::new();
            files.open(path, &inside).unwrap().read_to_string(&mut content).unwrap();
            assert_eq!(content, "mine");
            let place = files.root.join(at);
            if place.is_dir() {
                fs::remove_dir_all(&place).unwrap();
            } else {
                fs::remove_file(&place).unwrap();
            }
            to(&place);
            files.open(path, &inside).unwrap_err()
        };
        let outside = outer.path();
        let pipe = |at: &Path| nix::unistd::mkfifo(at, Mode::from_bits_truncate(0o600)).unwrap();
        for refused in [
            swap("folder", &|at| symlink(outside, at).unwrap()),
            swap("folder/inner", &|at| symlink(outside.join("inner"), at).unwrap()),
            swap(path, &|at| symlink(outside.join("secret"), at).unwrap()),
            swap(path, &|at| symlink("/dev/zero", at).unwrap()),
            swap(path, &pipe),
            swap(path, &|at| fs::create_dir(at).unwrap()),
            swap("folder", &pipe),
        ] {
            assert_eq!(refused.code, "path_not_allowed", "{refused:?}");
        }
    }

    /// One that swaps as fast as it can gets nothing out, and nothing in.
    #[test]
    fn a_race_is_lost_by_who_swaps() {
        let (outer, files) = files(100);
        let (folder, aside) = (files.root.join("output"), files.root.join("aside"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("secret"), "mine").unwrap();
        symlink(outer.path(), &aside).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut has_leaked = false;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let third = files.root.join("third");
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::rename(&folder, &third).unwrap();
                    while fs::rename(&aside, &folder).is_err() {
                        // Somebody who writes has made it again.
                        let _ = fs::remove_dir_all(&folder);
                    }
                    fs::rename(&third, &aside).unwrap();
                }
            });
            // Told at the end: whoever swaps must be stopped first.
            for number in 0..3_000 {
                has_leaked |= files.read("output/secret").is_ok_and(|content| content != b"mine");
                let _ = files.write(&format!("output/new-{}", number % 10), b"x");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(!has_leaked, "nothing was read outside");
        let mut outside: Vec<_> = fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        outside.sort();
        assert_eq!(outside, ["inside", "secret"], "nothing was written outside");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let (_outer, files) = files(100);
        fs::create_dir(files.root.join("folder")).unwrap();
        symlink("/dev/zero", files.root.join("device")).unwrap();
        symlink("/proc/self/environ", files.root.join("environment")).unwrap();
        symlink("loop", files.root.join("loop")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(files.root.join("socket")).unwrap();
        for path in ["folder", "device", "environment", "loop", "socket", "folder/../folder", "./folder/."] {
            assert_eq!(files.read(path).unwrap_err().code, "path_not_allowed", "{path}");
        }
        let long = "a/".repeat(3_000);
        assert!(["path_not_allowed", "file_not_found"].contains(&&*files.read(&long).unwrap_err().code));
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
