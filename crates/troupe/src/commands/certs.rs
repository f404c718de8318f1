//! `troupe certs`: a development authority, and a certificate for each service of a cluster.
//!
//! The authority's key is thrown away: it signs nothing afterwards, and nobody can steal it. New hosts want a new set.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::Outcome;
use crate::output::Output;

/// Each gets a certificate.
const SERVICES: [&str; 5] = ["registry", "communication", "orchestrator", "agent-runner", "gateway"];
/// Under these every process may be called.
const OWN: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const CA: &str = "ca.pem";

/// Options of `troupe certs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the files go; made where it is missing
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A name or address under which processes are called, besides the service's name and loopback; can be repeated
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> Outcome {
    let files = made(&args.host).context("cannot make certificates")?;
    if !args.force
        && let Some((name, _)) = files.iter().find(|(name, _)| args.dir.join(name).exists())
    {
        bail!("{} is there already; --force overwrites all of them", args.dir.join(name).display());
    }
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    for (name, text) in &files {
        let path = args.dir.join(name);
        written(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        output.line(path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Names of files, and what is in them.
fn made(hosts: &[String]) -> Result<Vec<(String, String)>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Troupe development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut files = vec![(CA.to_owned(), authority.pem())];
    for service in SERVICES {
        let names: Vec<_> = [service].into_iter().chain(OWN).chain(hosts.iter().map(String::as_str)).collect();
        let mut params = CertificateParams::new(names.into_iter().map(str::to_owned).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, service);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        files.push((format!("{service}.pem"), params.signed_by(&key, &authority)?.pem()));
        files.push((format!("{service}-key.pem"), key.serialize_pem()));
    }
    Ok(files)
}

/// Writes a file that nobody else may read, whoever could read the one before.
fn written(path: &Path, text: &str) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rpc::{Tls, TlsSettings};

    use super::*;

    #[test]
    fn certificates_are_private_usable_and_not_overwritten_by_accident() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("made");
        let mut args = Args { dir: dir.clone(), host: vec!["troupe.example".to_owned()], force: false };
        let output = Output::new(true);
        run(&args, &output).unwrap();
        for service in SERVICES {
            let (cert_file, key_file) = (dir.join(format!("{service}.pem")), dir.join(format!("{service}-key.pem")));
            assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
            Tls::load(&TlsSettings { ca_file: dir.join(CA), cert_file, key_file, server_name: None }).unwrap();
        }
        let before = fs::read(dir.join(CA)).unwrap();
        assert!(run(&args, &output).unwrap_err().to_string().contains("--force"));
        assert_eq!(fs::read(dir.join(CA)).unwrap(), before);
        args.force = true;
        run(&args, &output).unwrap();
        assert_ne!(fs::read(dir.join(CA)).unwrap(), before);
    }
}
