//! TLS for clients, and new certificates.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use gateway::{Certificate, Settings};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use testkit::eventually;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::CertificateDer},
};

use crate::connections::{HEAD, LIVE, served};

/// Makes a certificate, and writes it where the gateway looks for it.
pub(crate) fn make(place: &Certificate) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    write(place, &cert.pem(), &signing_key.serialize_pem());
    cert.der().clone()
}

fn write(place: &Certificate, certificate: &str, key: &str) {
    fs::write(&place.key_file, key).unwrap();
    fs::write(&place.cert_file, certificate).unwrap();
}

fn place(folder: &Path) -> Certificate {
    Certificate { cert_file: folder.join("cert.pem"), key_file: folder.join("key.pem") }
}

/// What `/health/live` answers to whoever trusts this certificate and no other.
async fn asked(address: SocketAddr, trusted: &CertificateDer<'static>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let stream = TcpStream::connect(address).await?;
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await?;
    stream.write_all(LIVE).await?;
    let mut begun = [0; 15];
    stream.read_exact(&mut begun).await?;
    Ok(String::from_utf8_lossy(&begun).into_owned())
}

#[tokio::test]
async fn clients_are_served_over_tls_and_a_new_certificate_is_taken_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let first = make(&place);
    let settings = Settings { tls: Some(place.clone()), ..Settings::default() };
    served(settings, async |address| {
        assert_eq!(asked(address, &first).await.unwrap(), "HTTP/1.1 200 OK");

        let second = make(&place);
        let is_taken = || eventually("the new certificate to be served", async || asked(address, &second).await);
        assert_eq!(is_taken().await, "HTTP/1.1 200 OK");
        assert!(asked(address, &first).await.is_err(), "the one before is served no more");

        // Half of a pair, as where one looks while both are replaced.
        let other = KeyPair::generate().unwrap().serialize_pem();
        let (certificate, key) =
            (fs::read_to_string(&place.cert_file).unwrap(), fs::read_to_string(&place.key_file).unwrap());
        for (certificate, key) in [(certificate.as_str(), other.as_str()), ("none", &key), (&certificate, "none")] {
            write(&place, certificate, key);
            assert_eq!(asked(address, &second).await.unwrap(), "HTTP/1.1 200 OK");
        }
        let third = make(&place);
        let is_taken = eventually("the third certificate to be served", async || asked(address, &third).await);
        assert_eq!(is_taken.await, "HTTP/1.1 200 OK");
    })
    .await;
}

#[tokio::test]
async fn who_speaks_plainly_or_not_at_all_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let trusted = make(&place);
    served(
        Settings { tls: Some(place), head_timeout: HEAD, max_connections: 3, ..Settings::default() },
        async |address| {
            for words in [LIVE, b"", b"\x16\x03\x01"] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(words).await.unwrap();
                let mut said = Vec::new();
                // Closed, or reset where there was something that nobody has read.
                let _: Result<_, _> = stream.read_to_end(&mut said).await;
                assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{said:?}");
            }
            assert_eq!(asked(address, &trusted).await.unwrap(), "HTTP/1.1 200 OK");
        },
    )
    .await;
}

#[tokio::test]
async fn a_gateway_does_not_start_with_a_certificate_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path());
    let missing = crate::rig::refused(Settings { tls: Some(place.clone()), ..Settings::default() }).await;
    assert!(missing.contains("cert.pem"), "{missing}");
    make(&place);
    fs::write(&place.key_file, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let unfit = crate::rig::refused(Settings { tls: Some(place), ..Settings::default() }).await;
    assert!(unfit.contains("certificate"), "{unfit}");
}
