//! Long work: it outlives its client, repeats join it, and it can be asked for without waiting.

use crate::rig::{OK_MIN, PATIENCE, Rig, promote_body, read_answer, wait_until};
use securereg_server::Limits;
use serde_json::json;
use std::time::{Duration, Instant};

const ASYNC: &str = "prefer: respond-async\r\n";

#[test]
fn a_promotion_outlives_a_client_that_hangs_up() {
    let rig = Rig::new();
    rig.stage(OK_MIN, "m.gguf");
    let hold = rig.hold_commits();
    let client = rig.send("POST", "/v1/promote", "promote", Some(&promote_body("m", "m.gguf")), "");
    rig.wait_for_copies(1);
    drop(client);
    drop(hold);
    wait_until("the promotion ends", || rig.call("GET", "/v1/model/m", "read", None).status == 200);
}

#[test]
fn an_identical_repeat_joins_the_running_one_and_gets_its_result() {
    let rig = Rig::new();
    rig.stage(OK_MIN, "m.gguf");
    let body = promote_body("m", "m.gguf");
    let hold = rig.hold_commits();
    let mut first = rig.send("POST", "/v1/promote", "promote", Some(&body), "");
    rig.wait_for_copies(1);
    let job = rig.call_with("POST", "/v1/promote", "promote", Some(&body), ASYNC).body["job"].clone();
    let again = rig.call_with("POST", "/v1/model/promote", "promote", Some(&body), ASYNC).body["job"].clone();
    assert_eq!(job, again, "the other generation asks for the same work");
    let mut second = rig.send("POST", "/v1/model/promote", "promote", Some(&body), "");
    let mut other = body.clone();
    other["source"] = json!("elsewhere");
    let different = rig.call_with("POST", "/v1/promote", "promote", Some(&other), ASYNC).body["job"].clone();
    assert_ne!(job, different, "what differs in anything is work of its own");
    drop(hold);
    let (first, second) = (read_answer(&mut first), read_answer(&mut second));
    assert_eq!((first.status, second.status), (200, 201), "each generation gets the status it tests for");
    assert_eq!(first.body, second.body);
}

#[test]
fn respond_async_answers_202_with_a_job_to_poll() {
    let rig = Rig::new();
    rig.stage(OK_MIN, "m.gguf");
    let hold = rig.hold_commits();
    let accepted = rig.call_with("POST", "/v1/model/promote", "promote", Some(&promote_body("m", "m.gguf")), ASYNC);
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    assert_eq!(accepted.header("preference-applied"), Some("respond-async"));
    let location = accepted.header("location").unwrap().to_owned();
    assert_eq!(location, format!("/v1/jobs/{}", accepted.body["job"].as_str().unwrap()));
    rig.wait_for_copies(1);
    let running = rig.call("GET", &location, "promote", None).body;
    assert_eq!(
        (&running["state"], &running["kind"], &running["name"]),
        (&json!("running"), &json!("promote"), &json!("m"))
    );
    assert!(running.get("result").is_none());
    for scope in ["read", "verify", "containment"] {
        assert_eq!(rig.call("GET", &location, scope, None).status, 404, "{scope}: a job of another scope is not there");
    }
    assert_eq!(rig.call("GET", &location, "", None).status, 403);
    drop(hold);
    let mut done = json!(null);
    wait_until("the job ends", || {
        done = rig.call("GET", &location, "admin", None).body;
        done["state"] == "done"
    });
    assert_eq!(done["result"]["status"], 201, "{done}");
    assert_eq!(done["result"]["body"]["name"], "m");
    assert_eq!(done["progress"]["done_bytes"], done["progress"]["total_bytes"]);

    let waited = "prefer: respond-async, wait=60\r\n";
    let verified = rig.call_with("POST", "/v1/model/verify?name=m", "verify", None, waited);
    assert_eq!((verified.status, &verified.body["status"]), (200, &json!("verified")), "it ended within the wait");
    let failed = rig.call_with("POST", "/v1/model/verify?name=none", "verify", None, ASYNC);
    let location = failed.header("location").unwrap().to_owned();
    wait_until("the job ends", || {
        done = rig.call("GET", &location, "verify", None).body;
        done["state"] == "done"
    });
    assert_eq!(done["result"]["status"], 404);
}

#[test]
fn more_work_than_the_limit_is_429() {
    let rig = Rig::with(Limits { jobs: 2, waiting: 1, ..Limits::default() });
    rig.stage(OK_MIN, "m.gguf");
    let hold = rig.hold_commits();
    let body = |i: usize| promote_body(&format!("m:{i}"), "m.gguf");
    let mut first = rig.send("POST", "/v1/promote", "promote", Some(&body(1)), "");
    rig.wait_for_copies(1);
    let no_place = rig.call("POST", "/v1/promote", "promote", Some(&body(2)));
    assert_eq!((no_place.status, &no_place.body["kind"]), (429, &json!("busy")), "one waits already");
    let location = no_place.header("location").unwrap().to_owned();
    let refused = rig.call_with("POST", "/v1/promote", "promote", Some(&body(3)), ASYNC);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "two are under way");
    assert_eq!(rig.call("GET", "/v1/models", "read", None).status, 200, "reads go on");
    drop(hold);
    assert_eq!(read_answer(&mut first).status, 200);
    wait_until("the work that found no place to wait ends all the same", || {
        rig.call("GET", &location, "promote", None).body["state"] == "done"
    });
    assert_eq!(rig.call("GET", "/v1/model/m:2", "read", None).status, 200);
    assert_eq!(rig.call("POST", "/v1/promote", "promote", Some(&body(3))).status, 200);
}

#[test]
fn finished_jobs_are_kept_up_to_a_bound() {
    let rig = Rig::with(Limits { finished_jobs: 2, ..Limits::default() });
    let start = |name: &str| {
        let target = format!("/v1/model/verify?name={name}");
        let location = rig.call_with("POST", &target, "verify", None, ASYNC).header("location").unwrap().to_owned();
        wait_until("the job ends", || rig.call("GET", &location, "verify", None).body["state"] == "done");
        location
    };
    let locations: Vec<String> = ["a", "b", "c", "d"].into_iter().map(start).collect();
    let there: Vec<u16> = locations.iter().map(|l| rig.call("GET", l, "verify", None).status).collect();
    assert_eq!(there, [404, 200, 200, 200], "two kept when the last one started");
}

#[test]
fn a_shutdown_lets_work_under_way_end_and_takes_no_more() {
    let mut rig = Rig::new();
    rig.stage(OK_MIN, "m.gguf");
    let hold = rig.hold_commits();
    let mut client = rig.send("POST", "/v1/promote", "promote", Some(&promote_body("m", "m.gguf")), "");
    rig.wait_for_copies(1);
    rig.shutdown_handle().shutdown();
    wait_until("nothing more is accepted", || std::net::TcpStream::connect(rig.addr).is_err());
    drop(hold);
    assert_eq!(read_answer(&mut client).status, 200);
    rig.shut_down();
    assert_eq!(rig.registry.catalog().unwrap().len(), 1);
}

#[test]
fn a_shutdown_ends_although_clients_idle_and_work_hangs() {
    let mut rig = Rig::with(Limits { grace: Duration::from_millis(100), ..Limits::default() });
    rig.stage(OK_MIN, "m.gguf");
    let hold = rig.hold_commits();
    let _idle: Vec<_> = (0..20).map(|_| rig.connect()).collect();
    let _client = rig.send("POST", "/v1/promote", "promote", Some(&promote_body("m", "m.gguf")), "");
    rig.wait_for_copies(1);
    let started = Instant::now();
    rig.shut_down();
    assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
    drop(hold);
    // Only so that the folder is not taken away under the work left behind.
    wait_until("the work left behind ends", || {
        rig.audit_events().iter().any(|(event, name, _)| name == "m" && (event == "refuse" || event == "promote"))
            && std::fs::read_dir(rig.registry.root().join("tmp")).unwrap().next().is_none()
    });
}
