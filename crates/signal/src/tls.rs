//! Certificates: from files, or made here.

use std::path::Path;
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
        Tls::SelfSigned { directory } => self_signed(directory)?,
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

/// Makes a certificate for this machine's names, once.
fn self_signed(directory: &Path) -> Result<(std::path::PathBuf, std::path::PathBuf), String> {
    let (certificate, key) = (directory.join("self-signed.crt"), directory.join("self-signed.key"));
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    let failed =
        |error: &dyn std::fmt::Display| format!("cannot make a certificate in {}: {error}", directory.display());
    let mut names = vec!["localhost".to_owned()];
    names.extend(
        std::fs::read_to_string("/etc/hostname").ok().map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()),
    );
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| failed(&error))?;
    std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    std::fs::write(&certificate, made.cert.pem()).map_err(|error| failed(&error))?;
    write_secret(&key, &made.signing_key.serialize_pem()).map_err(|error| failed(&error))?;
    Ok((certificate, key))
}

/// Readable by its owner alone from the first byte.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
