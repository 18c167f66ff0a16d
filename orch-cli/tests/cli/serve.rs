//! The service, from the command line.

use crate::kit::Lab;

#[cfg(feature = "serve")]
#[test]
fn the_service_serves_what_the_command_line_made() {
    use std::io::{Read as _, Write as _};

    let lab = Lab::new();
    lab.dag("good", "steps: [{ id: a, uses: fn/noop }]\n");
    assert_eq!(lab.orch(&["run", "good.yaml"]).code, 0);
    let service = crate::kit::Service::start(&lab, &[]);
    let address = service.address.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /api/v1/orchestrator/runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         x-stella-tenant: default\r\n\r\n",
        service.token
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"dagId\":\"good\""), "{answer}");
    let checked = lab.orch(&["serve", "--queue", "nonsense:", "config", "check"]);
    assert!(checked.code == 1 && checked.stderr.contains("queue"), "{checked:?}");
}

#[cfg(not(feature = "serve"))]
#[test]
fn a_build_without_the_service_says_how_to_get_it() {
    let ended = Lab::new().orch(&["serve"]);
    assert!(ended.code == 1 && ended.stderr.contains("--features serve"), "{ended:?}");
}
