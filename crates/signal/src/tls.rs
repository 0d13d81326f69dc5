//! Certificates: from files, or made here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::settings::Tls;

/// The acceptor for HTTPS; `None` for plain HTTP. The error is a sentence for the operator.
pub(crate) fn acceptor(tls: &Tls) -> Result<Option<TlsAcceptor>, String> {
    let (certificate, key) = match tls {
        Tls::Off => return Ok(None),
        Tls::Files { certificate, key } => (certificate.clone(), key.clone()),
        Tls::SelfSigned { directory, names } => self_signed(directory, names)?,
    };
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(&certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| unreadable(&certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
    let mut config = config.map_err(|error| format!("the certificate cannot be used: {error}"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// Makes a certificate for these names, and keeps it until a name is missing: browsers that trust it ask again for a new one.
fn self_signed(directory: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), String> {
    let [certificate, key, kept] = ["crt", "key", "names"].map(|kind| directory.join(format!("self-signed.{kind}")));
    let known = std::fs::read_to_string(&kept).unwrap_or_default();
    let knows_all = names.iter().all(|name| known.lines().any(|line| line == name));
    if certificate.exists() && key.exists() && knows_all {
        return Ok((certificate, key));
    }
    let failed =
        |error: &dyn std::fmt::Display| format!("cannot make a certificate in {}: {error}", directory.display());
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| failed(&error))?;
    std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    std::fs::write(&certificate, made.cert.pem()).map_err(|error| failed(&error))?;
    write_secret(&key, &made.signing_key.serialize_pem()).map_err(|error| failed(&error))?;
    std::fs::write(&kept, names.join("\n")).map_err(|error| failed(&error))?;
    Ok((certificate, key))
}

/// Readable by its owner alone from the first byte.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_kept_until_it_lacks_a_name() {
        let directory = std::env::temp_dir().join(format!("tertulia-tls-{}", std::process::id()));
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let made = |list: &[&str]| {
            let (certificate, _) = self_signed(&directory, &names(list)).unwrap();
            std::fs::read_to_string(certificate).unwrap()
        };
        let first = made(&["localhost", "192.0.2.1", "2001:db8::1"]);
        assert_eq!(made(&["localhost", "192.0.2.1"]), first, "an address less is no reason");
        let second = made(&["localhost", "192.0.2.2"]);
        assert_ne!(second, first);
        let tls = Tls::SelfSigned { directory: directory.clone(), names: names(&["localhost"]) };
        assert!(acceptor(&tls).unwrap().is_some());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
