//! Both ends of a connection show a certificate of the same authority, or there is no connection.

use std::path::Path;

use contracts::registry::v1::GetAgentRequest;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rpc::{Caller, Tls, TlsSettings};
use tokio::net::TcpListener;
use tonic::Code;

use crate::rig::{Registry, Served, client, tasks};

/// An authority with one certificate, in files.
fn made(folder: &Path, authority: &str, names: &[&str]) -> TlsSettings {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, authority);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let cert = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.join(format!("{authority}-{name}.pem"));
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsSettings {
        ca_file: write("ca", ca.pem()),
        cert_file: write("cert", cert.pem()),
        key_file: write("key", key.serialize_pem()),
        server_name: None,
    }
}

async fn served(tls: &TlsSettings, registry: &Registry) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Served::on(listener, registry, None, Some(&Tls::load(tls).unwrap()))
}

async fn call(served: &Served, tls: Option<&TlsSettings>) -> Result<(), Code> {
    let tls = tls.map(|tls| Tls::load(tls).unwrap());
    let mut client = client(&Caller::new(tasks()).with_tls(tls), &served.replicas());
    client.get_agent(GetAgentRequest::default()).await.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn both_ends_want_a_certificate_of_their_authority() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (made(folder.path(), "ours", &["127.0.0.1"]), made(folder.path(), "theirs", &["127.0.0.1"]));
    let registry = Registry::default();
    let served = served(&ours, &registry).await;
    assert_eq!(call(&served, Some(&ours)).await, Ok(()));
    assert_eq!(call(&served, None).await, Err(Code::Unavailable), "a client without TLS");
    assert_eq!(call(&served, Some(&theirs)).await, Err(Code::Unavailable), "neither knows the other");
    let trusting = TlsSettings { ca_file: ours.ca_file.clone(), ..theirs.clone() };
    assert_eq!(call(&served, Some(&trusting)).await, Err(Code::Unavailable), "the server does not know the client");
    assert_eq!(registry.calls(), 1);
    let credulous = TlsSettings { ca_file: theirs.ca_file, ..ours };
    assert_eq!(call(&served, Some(&credulous)).await, Err(Code::Unavailable), "the client does not know the server");
}

#[tokio::test]
async fn a_certificate_is_for_the_host_that_is_called_or_the_name_that_all_have() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = made(folder.path(), "elsewhere", &["registry.example"]);
    let served = served(&elsewhere, &Registry::default()).await;
    assert_eq!(call(&served, Some(&elsewhere)).await, Err(Code::Unavailable));
    let named = TlsSettings { server_name: Some("registry.example".to_owned()), ..elsewhere };
    assert_eq!(call(&served, Some(&named)).await, Ok(()));
}

#[test]
fn files_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = made(folder.path(), "good", &["localhost"]);
    let missing = TlsSettings { cert_file: folder.path().join("nowhere.pem"), ..good.clone() };
    assert!(Tls::load(&missing).unwrap_err().to_string().contains("nowhere.pem"));
    let swapped = TlsSettings { key_file: good.ca_file.clone(), ..good };
    assert!(Tls::load(&swapped).unwrap_err().to_string().contains("good-ca.pem"));
}
