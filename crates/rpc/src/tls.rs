//! Certificates that both ends of a connection show, where an operator wants that.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject as _},
    },
};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Where the certificates are, all of them PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// The authority that has made the certificates of all processes of the cluster; those of others are refused.
    pub ca_file: PathBuf,
    /// This process's certificate, which it shows as a server and as a client.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// A name that the certificates of all processes have, where they are called by addresses that nobody knows beforehand.
    /// Default: the host that is called.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file has no certificate or key in it.
    #[error("{path} is no PEM file with what it should have")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// They do not fit each other.
    #[error("the certificates cannot be used")]
    Unusable(#[source] tokio_rustls::rustls::Error),
    /// The name is none.
    #[error("{0:?} is no name that a certificate can have")]
    Name(String),
}

/// Certificates as they are used.
#[derive(Clone)]
pub struct Tls {
    client: TlsConnector,
    server: ServerTlsConfig,
    server_name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    pub fn load(settings: &TlsSettings) -> Result<Self, TlsError> {
        let (ca, cert, key) = (read(&settings.ca_file)?, read(&settings.cert_file)?, read(&settings.key_file)?);
        let server =
            ServerTlsConfig::new().identity(Identity::from_pem(&cert, &key)).client_ca_root(Certificate::from_pem(&ca));
        let mut roots = RootCertStore::empty();
        for root in certificates(&settings.ca_file, &ca)? {
            roots.add(root).map_err(TlsError::Unusable)?;
        }
        let chain = certificates(&settings.cert_file, &cert)?;
        let key = PrivateKeyDer::from_pem_slice(&key);
        let key = key.map_err(|source| TlsError::Pem { path: settings.key_file.clone(), source })?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Unusable)?;
        let client = builder.with_root_certificates(roots).with_client_auth_cert(chain, key);
        let mut client = client.map_err(TlsError::Unusable)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        let server_name = settings.server_name.as_deref().map(name).transpose()?;
        Ok(Self { client: TlsConnector::from(Arc::new(client)), server, server_name })
    }

    /// For a server: clients without a certificate of the same authority are refused.
    pub fn server(&self) -> ServerTlsConfig {
        self.server.clone()
    }

    /// For a client of a host.
    pub(crate) fn client(&self, host: &str) -> Result<(TlsConnector, ServerName<'static>), TlsError> {
        let name = self.server_name.clone().map_or_else(|| name(host), Ok)?;
        Ok((self.client.clone(), name))
    }
}

fn name(text: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(text.to_owned()).map_err(|_| TlsError::Name(text.to_owned()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { path: path.to_owned(), source };
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if found.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(found) }
}
