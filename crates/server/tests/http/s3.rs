//! Servers that share a bucket: what each of them accepted, the others have, and one that is killed loses nothing of it.
//!
//! Each test runs on s3s-fs in this process and, where `SECUREREG_S3_ENDPOINT` names one, on that server (tests/s3/run.sh).

use crate::bucket::S3Server;
use crate::oci::{blob, call, digest, get, image, manifest, model};
use crate::rig::{OK_MIN, Rig, TINY, configuration, test_data, wait_until};
use securereg::Registry;
use securereg_server::{Config, Server};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

macro_rules! on_each {
    ($($name:ident)*) => {
        mod s3s {
            $(#[test] fn $name() { super::$name(&super::S3Server::start()) })*
        }
        mod moto {
            $(#[test] fn $name() {
                match super::S3Server::external() {
                    Some(server) => super::$name(&server),
                    None => eprintln!("skipped: SECUREREG_S3_ENDPOINT names no server"),
                }
            })*
        }
    };
}

on_each! {
    tags_that_eight_clients_push_through_two_instances_are_all_there
    an_upload_to_an_instance_that_is_killed_goes_on_with_another
    a_pushed_model_is_judged_promoted_and_read_from_the_local_store
    a_redirect_is_sent_only_when_asked_for
}

fn instance(server: &S3Server, more: &str) -> Rig {
    Rig::configured(&format!("storage: {{s3: {}}}\n", server.settings(more)))
}

/// Issue 5, point 5.
fn tags_that_eight_clients_push_through_two_instances_are_all_there(server: &S3Server) {
    const EACH: usize = 3;
    let rigs = [instance(server, ""), instance(server, "")];
    let pushed: Vec<(String, Vec<u8>)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let rigs = &rigs;
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for n in 0..EACH {
                        let rig = &rigs[(client + n) % 2];
                        let config = blob(rig, "a", b"{}");
                        let layer = format!("layer {client} {n}");
                        let image = image(&config, &[(&blob(rig, "a", layer.as_bytes()), layer.len())]);
                        for tag in [format!("c{client}-{n}"), "latest".to_owned()] {
                            assert_eq!(manifest(rig, "a", &tag, "promote", &image).status, 201, "{tag}");
                        }
                        done.push((format!("c{client}-{n}"), image.to_string().into_bytes()));
                    }
                    done
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(pushed.len(), 8 * EACH);
    let wanted: BTreeSet<&str> = pushed.iter().map(|(tag, _)| tag.as_str()).chain(["latest"]).collect();
    for rig in &rigs {
        let listed = get(rig, "/v2/a/tags/list", "read").json();
        let listed: BTreeSet<&str> = listed["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(listed, wanted);
        for (tag, image) in &pushed {
            assert_eq!(&get(rig, &format!("/v2/a/manifests/{tag}"), "read").body, image);
            let image: Value = serde_json::from_slice(image).unwrap();
            let layer = image["layers"][0]["digest"].as_str().unwrap();
            let bytes = get(rig, &format!("/v2/a/blobs/{layer}"), "read").body;
            assert_eq!(digest(&bytes), layer);
        }
        assert_eq!(get(rig, "/v2/_catalog", "read").json()["repositories"], serde_json::json!(["a"]));
    }
}

/// A server in a process of its own, which can be killed.
struct Killable {
    child: Child,
    addr: String,
    token: String,
}

const CHILD: &str = "SECUREREG_TEST_SERVER";

impl Killable {
    fn start(dir: &Path, settings: &str) -> Killable {
        fs::write(dir.join("settings"), settings).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["s3::a_server_of_its_own", "--exact", "--nocapture"]).env(CHILD, dir);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr =
            said.map(Result::unwrap).find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)).unwrap();
        let token = fs::read_to_string(dir.join("root/tokens/promote.token")).unwrap().trim().to_owned();
        Killable { child, addr, token }
    }

    fn request(&self, method: &str, target: &str, length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        let token = &self.token;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test, but what [`Killable`] starts.
#[test]
fn a_server_of_its_own() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = Path::new(&dir);
    let registry = Registry::open_or_create(&dir.join("root")).unwrap();
    let settings = fs::read_to_string(dir.join("settings")).unwrap();
    let config = Config { listen: ([127, 0, 0, 1], 0).into(), ..configuration(dir, &settings) };
    let server = Server::bind(registry, config).unwrap();
    println!("\nlistening on {}", server.local_addr());
    server.run().unwrap();
}

/// Issue 5, point 5.
fn an_upload_to_an_instance_that_is_killed_goes_on_with_another(server: &S3Server) {
    const ACKNOWLEDGED: usize = (12 << 20) + 5;
    let dir = tempfile::tempdir().unwrap();
    let mut killed = Killable::start(dir.path(), &format!("storage: {{s3: {}}}\n", server.settings("")));
    let rig = instance(server, "");
    let bytes: Vec<u8> = (0..8u32 << 20).flat_map(u32::to_le_bytes).collect();
    let begun = call(&rig, "POST", "/v2/a/blobs/uploads/", "promote", "", b"");
    // A chunk that is acknowledged, and one that never is.
    let mut chunk = killed.request("PATCH", &begun.location(), ACKNOWLEDGED);
    chunk.write_all(&bytes[..ACKNOWLEDGED]).unwrap();
    assert_eq!(crate::rig::read_answer(&mut chunk).status, 202);
    let mut chunk = killed.request("PATCH", &begun.location(), bytes.len() - ACKNOWLEDGED);
    chunk.write_all(&bytes[ACKNOWLEDGED..ACKNOWLEDGED + (9 << 20)]).unwrap();
    killed.kill();
    drop(chunk);
    // The client asks where it is, and goes on from there.
    let status = get(&rig, &begun.location(), "promote");
    let last: usize = status.header("range").unwrap().strip_prefix("0-").unwrap().parse().unwrap();
    assert!(status.status == 204 && last + 1 >= ACKNOWLEDGED, "{}", status.head);
    let place = format!("content-range: {}-{}\r\n", last + 1, bytes.len() - 1);
    let rest = call(&rig, "PATCH", &begun.location(), "promote", &place, &bytes[last + 1..]);
    assert_eq!(rest.status, 202, "{}", String::from_utf8_lossy(&rest.body));
    let put = format!("{}?digest={}", rest.location(), digest(&bytes));
    assert_eq!(call(&rig, "PUT", &put, "promote", "", b"").status, 201);
    assert!(get(&rig, &format!("/v2/a/blobs/{}", digest(&bytes)), "read").body == bytes);
    // One that starts over is not held up by what the killed one left.
    let config = blob(&rig, "a", b"{}");
    let layer = blob(&rig, "a", &bytes[1..]);
    assert_eq!(manifest(&rig, "a", "latest", "promote", &image(&config, &[(&layer, bytes.len() - 1)])).status, 201);
}

fn a_pushed_model_is_judged_promoted_and_read_from_the_local_store(server: &S3Server) {
    let rig = instance(server, "");
    let blobs = || fs::read_dir(rig.registry.root().join("blobs/sha256")).unwrap().count();
    assert_eq!(model(&rig, "m", "v1.0.0", TINY, "tiny.gguf").status, 201);
    let artifact = |name: &str| rig.registry.catalog().unwrap().artifact(&name.parse().unwrap()).cloned();
    wait_until("it is promoted", || artifact("m:v1.0.0").is_some());
    let there = artifact("m:v1.0.0").unwrap();
    let file = rig.registry.open_file(&there.name, &there.files[0].path, securereg::ReadMode::Cached).unwrap();
    assert_eq!(file.len(), fs::metadata(test_data(TINY)).unwrap().len());
    wait_until("the weights are here, once, and nothing else", || blobs() == 1);
    let weights = format!("/v2/m/blobs/sha256:{}", there.files[0].sha256);
    assert_eq!(get(&rig, &weights, "read").body, fs::read(test_data(TINY)).unwrap());
    // Another instance gives it out, too, and promotes it when it is told to.
    let other = instance(server, "");
    assert_eq!(get(&other, "/v2/m/manifests/v1.0.0", "read").status, 200);
    assert!(other.registry.catalog().unwrap().artifact(&there.name).is_none());
    let told = other.call("POST", "/v1/promote", "promote", Some(&serde_json::json!({"name": "m:v1.0.0"})));
    assert_eq!(told.status, 200, "{}", told.body);
    assert_eq!(other.registry.catalog().unwrap().artifact(&there.name).unwrap().files, there.files);
    assert_eq!(model(&rig, "m", "latest", OK_MIN, "m.gguf").status, 201);
    wait_until("it is promoted", || artifact("m:latest").is_some());
    // A refused one leaves no bytes here.
    let hostile = fs::read_dir(test_data("hostile")).unwrap().filter_map(|e| e.unwrap().file_name().into_string().ok());
    let bad = hostile.filter(|n| n.ends_with(".gguf") && !n.contains("_ok")).min().unwrap();
    let pushed = model(&rig, "m", "bad", &format!("hostile/{bad}"), "m.gguf");
    let manifest = format!("/v2/m/manifests/{}", pushed.header("docker-content-digest").unwrap());
    wait_until("it is judged", || get(&rig, &manifest, "read").json().to_string().contains("refused"));
    wait_until("its bytes are gone", || blobs() == 2);
    assert!(artifact("m:bad").is_none());
}

fn a_redirect_is_sent_only_when_asked_for(server: &S3Server) {
    let (plain, redirecting) = (instance(server, ""), instance(server, ", redirect: true"));
    let target = format!("/v2/a/blobs/{}", blob(&plain, "a", b"bytes"));
    assert_eq!(get(&plain, &target, "read").body, b"bytes");
    let reply = get(&redirecting, &target, "read");
    assert_eq!(reply.status, 307);
    assert!(reply.header("location").unwrap().contains("X-Amz-Signature="), "{}", reply.head);
    assert_eq!(call(&redirecting, "HEAD", &target, "read", "", b"").status, 200);
    assert_eq!(get(&redirecting, &target, "").status, 401, "not without a token");
}
