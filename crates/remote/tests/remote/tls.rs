//! TLS: whom we trust. The certificate in tests/data is for 127.0.0.1, its key is no secret.

use crate::models::gguf;
use crate::rig::{Fake, Local, Serving, answer, kind_of};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use securereg::ErrorKind;
use securereg_remote::{Options, Types};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// TLS before `to`.
fn wrapped(to: SocketAddr) -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(data("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(data("key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
    });
    told.recv().unwrap()
}

#[test]
fn a_certificate_that_is_trusted_opens_the_way_and_no_other_does() {
    let (server, from, to) = (Serving::new(), Local::new(), Local::new());
    from.promote("m", &[("m.gguf", &gguf(3 << 20, 1))]);
    let host = wrapped(server.addr).to_string();
    let with = |local: &Local, ca: &str| {
        let options = local.options(&[(&host, &server.token("promote"))]);
        Options { ca: Some(data(ca)), ..options }
    };
    let place = format!("{host}/m:v1");
    let (kind, text) = kind_of(from.push("m", &place, Types::Hanzo, &with(&from, "other.pem")));
    assert!(kind == ErrorKind::Permission && text.contains("not to be trusted"), "{text}");
    from.push("m", &place, Types::Hanzo, &with(&from, "cert.pem")).unwrap();
    to.pull(&place, None, &with(&to, "cert.pem")).unwrap();
    assert_eq!(to.sha256("m:v1"), from.sha256("m"));
    // Our own server without TLS answers 400 to its greeting.
    let (kind, text) = kind_of(to.pull(&format!("{}/m:v2", server.addr), None, &with(&to, "cert.pem")));
    assert!(kind == ErrorKind::Permission && text.contains("--plain-http"), "{text}");
    // A redirect out of TLS.
    let away = Fake::new(|request| match request.path().contains("/manifests/") {
        true => answer(307, "location: http://127.0.0.1:1/x\r\n", ""),
        false => answer(404, "", ""),
    });
    let place = format!("{}/m:v2", wrapped(away.addr));
    let (kind, text) = kind_of(to.pull(&place, None, &with(&to, "cert.pem")));
    assert!(kind == ErrorKind::Refused && text.contains("out of TLS"), "{text}");
}
