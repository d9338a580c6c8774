//! Where passwords are found, and that they are found by nobody else.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn basic(user: &str, secret: &str) -> Credential {
    Credential::Basic { user: user.into(), secret: secret.into() }
}

#[test]
fn each_place_has_its_turn() {
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("docker-credential-own");
    let script = "#!/bin/sh\nread -r key\ncase \"$1 $key\" in\n'get kept.example') printf '{\"Username\":\"h\",\"Secret\":\"s\"}';;\n'get id.example') printf '{\"Username\":\"<token>\",\"Secret\":\"t\"}';;\n'get broken.example') echo x;;\n'get ill.example') exit 3;;\n*) echo 'credentials not found in native keychain'; exit 1;;\nesac\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let auth = STANDARD.encode("u:p:q");
    let docker = format!(
        "{{\"auths\":{{\"plain.example:5000\":{{\"auth\":\"{auth}\"}},\"https://old.example/v1/\":{{\"username\":\"a\",\"password\":\"b\"}},
          \"https://index.docker.io/v1/\":{{\"auth\":\"{auth}\"}},\"kept.example\":{{}},\"bad.example\":{{\"auth\":\"!\"}},
          \"idt.example\":{{\"auth\":\"{auth}\",\"identitytoken\":\"i\"}}}},
          \"credHelpers\":{{\"away.example\":\"../sh\",\"gone.example\":\"gone\"}},\"credsStore\":\"own\",\"currentContext\":\"x\"}}"
    );
    let podman = format!("{{\"auths\":{{\"ns.example/org\":{{\"auth\":\"{auth}\"}}}}}}");
    let files = [("config.json", docker), ("auth.json", podman)].map(|(name, text)| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let keychain = Keychain { files: files.into(), helpers: Some(path.into()) };
    let find = |place: &str| keychain.find(&format!("{place}:v").parse().unwrap());
    for (place, wanted) in [
        ("plain.example:5000/a", basic("u", "p:q")),
        ("plain.example/a", Credential::None),
        ("old.example/a", basic("a", "b")),
        ("docker.io/ai/x", basic("u", "p:q")),
        ("kept.example/a", basic("h", "s")),
        ("id.example/a", Credential::Identity("t".into())),
        ("idt.example/a", Credential::Identity("i".into())),
        ("ns.example/org/x", basic("u", "p:q")),
        ("ns.example/organ/x", Credential::None),
        ("nobody.example/a", Credential::None),
    ] {
        assert_eq!(find(place).unwrap(), wanted, "{place}");
    }
    for (place, part) in [
        ("bad.example/a", "not base64"),
        ("away.example/a", "no name of a credential helper"),
        ("gone.example/a", "cannot be run"),
        ("broken.example/a", "gave no credentials"),
        ("ill.example/a", "failed"),
    ] {
        let error = find(place).unwrap_err();
        assert!(error.to_string().contains(part), "{place}: {error}");
    }
}

#[test]
fn a_secret_stands_in_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, "{\"auths\":{\"r.example\":{\"auth\":\"hunter2\"}},\"credHelpers\":\"hunter2\"}").unwrap();
    let keychain = Keychain { files: vec![file, dir.path().join("absent")], helpers: None };
    let error = keychain.find(&"r.example/a:v".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(!error.to_string().contains("hunter2"), "{error}");
    assert!(!format!("{:?}", [basic("u", "hunter2"), Credential::Token("hunter2".into())]).contains("hunter2"));
}
