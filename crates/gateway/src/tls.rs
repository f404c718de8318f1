//! TLS for clients. The certificate is read again when its files change, so that a new one needs no restart; connections that
//! are there keep theirs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

/// How often it is looked whether there is a new certificate.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where the certificate is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// A PEM file with the certificate, followed by those that lead to its authority.
    pub cert_file: PathBuf,
    /// A PEM file with its key.
    pub key_file: PathBuf,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file has no certificate or key in it.
    #[error("{} is no PEM file with what it should have", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// They do not fit each other.
    #[error("the certificate cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// What is in the files.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The present certificate.
#[derive(Debug)]
struct Present(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Present {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Serves TLS 1.2 and 1.3.
pub(crate) struct Tls {
    place: Certificate,
    provider: Arc<CryptoProvider>,
    present: Arc<Present>,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(place: &Certificate) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certified = certified(place, &read(place)?, &provider)?;
        let present = Arc::new(Present(RwLock::new(Arc::new(certified))));
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let config = config.map_err(TlsError::Unusable)?.with_no_client_auth();
        let mut config = config.with_cert_resolver(Arc::clone(&present) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { place: place.clone(), provider, present, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Takes new certificates as they come, for ever. One that cannot be used is told of once, and the one before stays.
    pub(crate) async fn follow(&self) {
        // What a start has read may be old by now.
        let mut known = None;
        loop {
            match read(&self.place) {
                Ok(files) if known.as_ref() == Some(&files) => {}
                Ok(files) => {
                    match certified(&self.place, &files, &self.provider) {
                        Ok(certified) => self.take(certified, known.is_some()),
                        Err(error) => complain(&error),
                    }
                    known = Some(files);
                }
                Err(error) => complain(&error),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn take(&self, certified: CertifiedKey, is_new: bool) {
        *self.present.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
        if is_new {
            tracing::info!(path = %self.place.cert_file.display(), "a new certificate is served");
        }
    }

    /// The client's end of the handshake must come within `patience`.
    pub(crate) async fn accept(&self, stream: TcpStream, patience: Duration) -> io::Result<TlsStream<TcpStream>> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the client does not finish its handshake");
        timeout(patience, self.acceptor.accept(stream)).await.map_err(late)?
    }
}

fn complain(error: &TlsError) {
    tracing::error!(error = errors::chain(error), "the new certificate cannot be used; the one before is served");
}

fn read(place: &Certificate) -> Result<Files, TlsError> {
    let read = |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
    Ok(Files { certificate: read(&place.cert_file)?, key: read(&place.key_file)? })
}

/// Checks that the key is the certificate's.
fn certified(place: &Certificate, files: &Files, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let wrong = |path: &Path, source| TlsError::Pem { path: path.to_owned(), source };
    let chain = CertificateDer::pem_slice_iter(&files.certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|source| wrong(&place.cert_file, source))?;
    if chain.is_empty() {
        return Err(wrong(&place.cert_file, pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|source| wrong(&place.key_file, source))?;
    CertifiedKey::from_der(chain, key, provider).map_err(TlsError::Unusable)
}
