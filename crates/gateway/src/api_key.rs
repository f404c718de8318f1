//! The key without which an open gateway answers nobody.

use std::{fmt, fs, io, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Arc};

use http::HeaderValue;
use settings::Secret;

use crate::{Settings, StartError};

/// What clients present as `X-API-Key`. Only its hash is kept.
#[derive(Clone)]
pub struct ApiKey {
    hash: blake3::Hash,
    fingerprint: Arc<str>,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey")
    }
}

/// The shortest key: shorter ones can be guessed.
const SHORTEST: usize = 16;

impl ApiKey {
    /// The key that the settings name. A file that is missing is made, with a new key; `made` is called with that, since
    /// nobody else knows it.
    pub fn of(settings: &Settings, made: impl FnOnce(&str)) -> Result<Option<Self>, StartError> {
        if let Some(path) = settings.api_key_file.as_deref().filter(|path| settings.api_key.is_none() && !path.exists())
        {
            let key = make(path, "trp").map_err(|source| StartError::KeyFile { path: path.to_owned(), source })?;
            if let Some(key) = key {
                made(&key);
            }
        }
        let file = settings.api_key_file.as_deref();
        let key = Secret::given(settings.api_key.as_ref(), file)
            .map_err(|source| StartError::KeyFile { path: file.unwrap_or(Path::new("")).to_owned(), source })?;
        let Some(key) = key else { return Ok(None) };
        if key.reveal().len() < SHORTEST {
            return Err(StartError::ShortKey);
        }
        let hash = blake3::hash(key.reveal().as_bytes());
        // A hash of the hash, and only its beginning: it tells keys apart, and opens nothing.
        let fingerprint = blake3::hash(hash.as_bytes()).to_hex()[..16].into();
        Ok(Some(Self { hash, fingerprint }))
    }

    /// Is it what was presented? Hashes are compared in a time that does not tell where they differ.
    pub(crate) fn is(&self, presented: &HeaderValue) -> bool {
        blake3::hash(presented.as_bytes()) == self.hash
    }

    /// Names the key where it is counted what is done with it.
    pub(crate) fn fingerprint(&self) -> Arc<str> {
        Arc::clone(&self.fingerprint)
    }
}

/// What whoever reads metrics presents as `authorization: Bearer …`, and what opens nothing else. Only its hash is kept.
#[derive(Clone)]
pub struct MetricsToken(blake3::Hash);

impl fmt::Debug for MetricsToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MetricsToken")
    }
}

impl MetricsToken {
    /// Of its text.
    pub fn new(text: &Secret) -> Self {
        Self(blake3::hash(text.reveal().as_bytes()))
    }

    /// Is it what was presented? Hashes are compared in a time that does not tell where they differ.
    pub(crate) fn is(&self, presented: &str) -> bool {
        blake3::hash(presented.as_bytes()) == self.0
    }
}

/// Writes a new key into a file that only its owner can read; nothing where another gateway has made the file meanwhile.
///
/// The file gets its name when it is whole and on disk. So replicas that start together for the first time agree about the key,
/// and none is told of a key that does not last.
pub(crate) fn make(path: &Path, mark: &str) -> io::Result<Option<String>> {
    let mut random = [0_u8; 32];
    fs::File::open("/dev/urandom").and_then(|mut source| io::Read::read_exact(&mut source, &mut random))?;
    let key = format!("{mark}_{}", blake3::Hash::from(random).to_hex());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unnamed = folder.join(format!(".api-key.{}", &blake3::hash(key.as_bytes()).to_hex()[..16]));
    let linked = write(&unnamed, &key).and_then(|()| fs::hard_link(&unnamed, path));
    let removed = fs::remove_file(&unnamed);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        linked => linked.and(removed)?,
    }
    fs::File::open(folder)?.sync_all()?;
    Ok(Some(key))
}

fn write(path: &Path, key: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, sync::Barrier, thread};

    use super::*;

    fn settings(key: Option<&str>, file: Option<&Path>) -> Settings {
        Settings { api_key: key.map(Secret::new), api_key_file: file.map(Path::to_owned), ..Settings::default() }
    }

    #[test]
    fn a_key_is_made_once_and_only_it_opens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/key");
        let mut told = None;
        let key = ApiKey::of(&settings(None, Some(&path)), |made| told = Some(made.to_owned())).unwrap().unwrap();
        let told = told.unwrap();
        assert!(key.is(&HeaderValue::from_str(&told).unwrap()));
        assert!(!key.is(&HeaderValue::from_static("trp_another")));
        let again = ApiKey::of(&settings(None, Some(&path)), |_| panic!("it is there already")).unwrap().unwrap();
        assert!(again.is(&HeaderValue::from_str(&told).unwrap()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn gateways_that_start_together_agree_about_the_key() {
        const GATEWAYS: usize = 16;
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("key");
            let together = Barrier::new(GATEWAYS);
            let start = || {
                let mut told = None;
                together.wait();
                let key = ApiKey::of(&settings(None, Some(&path)), |made| told = Some(made.to_owned()));
                (key.unwrap().unwrap(), told)
            };
            let started: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..GATEWAYS).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let told: Vec<_> = started.iter().filter_map(|(_, told)| told.as_deref()).collect();
            let [told] = told[..] else { panic!("one of them has made it: {told:?}") };
            let told = HeaderValue::from_str(told).unwrap();
            assert!(started.iter().all(|(key, _)| key.is(&told)));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        }
    }

    #[test]
    fn a_key_that_can_be_guessed_is_refused_and_none_is_none() {
        assert!(matches!(ApiKey::of(&settings(Some("short"), None), |_| ()), Err(StartError::ShortKey)));
        assert!(ApiKey::of(&settings(None, None), |_| ()).unwrap().is_none());
    }
}
