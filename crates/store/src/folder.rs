//! Folders that survive a power cut.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Makes a folder and those above it where they are missing. Their names are on disk when it returns, so that what is flushed in
/// them later can be found.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(parent)?;
    match fs::create_dir(folder) {
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_with_those_above_and_once() {
        let parent = tempfile::tempdir().unwrap();
        let deep = parent.path().join("made/on/first/use");
        make_folder(&deep).unwrap();
        make_folder(&deep).unwrap();
        assert!(deep.is_dir());
        make_folder(Path::new("")).unwrap();
        fs::write(deep.join("file"), "").unwrap();
        make_folder(&deep.join("file")).unwrap_err();
    }
}
