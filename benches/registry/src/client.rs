//! A registry's client, as plain as one can be.
//!
//! Owns: one connection, kept; the requests of a push and a pull. Promises: anything but the status that is due is an error, and so is a
//! byte that is not the blob's. Leaves out: TLS, redirects and tokens: it talks to this machine.

use crate::payload::{Blob, Body, Length};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::net::TcpStream;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T = ()> = std::result::Result<T, Error>;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Where the registry is, and who asks.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) authorization: Option<HeaderValue>,
}

impl Target {
    pub(crate) fn new(address: &str, credentials: Option<&str>) -> Result<Target> {
        let address: SocketAddr = address.parse()?;
        if !address.ip().is_loopback() {
            return Err(format!("{address} is not on this machine: only a loopback address is loaded").into());
        }
        let basic = |pair: &str| HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)));
        Ok(Target { address, authorization: credentials.map(basic).transpose()? })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// POST, then one PUT with the bytes.
    Monolithic,
    /// POST, one PATCH of a stream of no announced length, an empty PUT: as podman, skopeo and crane do.
    Streamed,
}

/// What an image is made of; all of its digests are known.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) layer: Blob,
    pub(crate) config: Bytes,
    pub(crate) config_digest: String,
    pub(crate) manifest: Bytes,
    pub(crate) tag: String,
}

pub(crate) struct Client {
    target: Target,
    connection: Option<SendRequest<Body>>,
}

impl Client {
    pub(crate) fn new(target: Target) -> Client {
        Client { target, connection: None }
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Body>> {
        let usable = match &mut self.connection {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let stream = TcpStream::connect(self.target.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        self.connection.as_mut().ok_or_else(|| "no connection".into())
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(hyper::header::HeaderName, &str)],
        body: Body,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.target.address.to_string());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(value) = &self.target.authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(body)?;
        Ok(self.connection().await?.send_request(request).await?)
    }

    /// Sends, and reads the answer to its end; its status must be `due`.
    async fn ask(
        &mut self,
        due: StatusCode,
        method: Method,
        path: &str,
        media_type: &str,
        body: Body,
    ) -> Result<HeaderMap> {
        let told = format!("{method} {path}");
        let response = self.send(method, path, &[(CONTENT_TYPE, media_type)], body).await?;
        let (parts, body) = response.into_parts();
        let text = body.collect().await?.to_bytes();
        if parts.status != due {
            return Err(
                format!("{told}: {} where {due} was due: {}", parts.status, String::from_utf8_lossy(&text)).into()
            );
        }
        Ok(parts.headers)
    }

    async fn upload(&mut self, repository: &str, style: Style, digest: &str, body: impl Fn(Length) -> Body) -> Result {
        const TYPE: &str = "application/octet-stream";
        let start = format!("/v2/{repository}/blobs/uploads/");
        let mut at = location(&self.ask(StatusCode::ACCEPTED, Method::POST, &start, TYPE, Bytes::new().into()).await?)?;
        let last = match style {
            Style::Monolithic => body(Length::Known),
            Style::Streamed => {
                let sent = self.ask(StatusCode::ACCEPTED, Method::PATCH, &at, TYPE, body(Length::Unknown)).await?;
                at = location(&sent)?;
                Bytes::new().into()
            }
        };
        let join = if at.contains('?') { '&' } else { '?' };
        self.ask(StatusCode::CREATED, Method::PUT, &format!("{at}{join}digest={digest}"), TYPE, last).await.map(drop)
    }

    /// The layer, the config, the manifest under its tag.
    pub(crate) async fn push(&mut self, repository: &str, image: &Image, style: Style) -> Result {
        self.upload(repository, style, &image.layer.digest, |length| image.layer.body(length)).await?;
        self.upload(repository, Style::Monolithic, &image.config_digest, |_| image.config.clone().into()).await?;
        let path = format!("/v2/{repository}/manifests/{}", image.tag);
        self.ask(StatusCode::CREATED, Method::PUT, &path, MANIFEST, image.manifest.clone().into()).await.map(drop)
    }

    /// The manifest by its tag, the config, the layer.
    pub(crate) async fn pull(&mut self, repository: &str, image: &Image) -> Result {
        let manifest = self.small(&format!("/v2/{repository}/manifests/{}", image.tag)).await?;
        let config = self.small(&format!("/v2/{repository}/blobs/{}", image.config_digest)).await?;
        if manifest != image.manifest || config != image.config {
            return Err(format!("{}: other bytes than were pushed", image.tag).into());
        }
        let mut body = self.get(&format!("/v2/{repository}/blobs/{}", image.layer.digest)).await?;
        let mut at = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if !image.layer.holds(at, &data) {
                return Err(format!("{}: another byte than was pushed, after {at}", image.layer.digest).into());
            }
            at += data.len() as u64;
        }
        if at == image.layer.size {
            Ok(())
        } else {
            Err(format!("{}: ended after {at} bytes", image.layer.digest).into())
        }
    }

    async fn small(&mut self, path: &str) -> Result<Bytes> {
        Ok(self.get(path).await?.collect().await?.to_bytes())
    }

    async fn get(&mut self, path: &str) -> Result<Incoming> {
        let response = self.send(Method::GET, path, &[(ACCEPT, MANIFEST)], Bytes::new().into()).await?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            other => Err(format!("GET {path}: {other}").into()),
        }
    }
}

/// The path and query of where an upload goes on; the host is this one in any case.
fn location(headers: &HeaderMap) -> Result<String> {
    let text = headers.get(LOCATION).ok_or("no Location in the answer")?.to_str()?;
    let uri: hyper::Uri = text.parse()?;
    Ok(uri.path_and_query().ok_or("a Location without a path")?.to_string())
}
