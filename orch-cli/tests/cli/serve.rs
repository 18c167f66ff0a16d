//! The service, from the command line.

use crate::kit::Lab;

#[cfg(feature = "serve")]
#[test]
fn the_service_serves_what_the_command_line_made() {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::process::Stdio;

    let lab = Lab::new();
    lab.dag("good", "steps: [{ id: a, uses: fn/noop }]\n");
    assert_eq!(lab.orch(&["run", "good.yaml"]).code, 0);
    let mut service = lab.command(&["serve", "--listen", "127.0.0.1:0"]);
    let mut service = service.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let address = said.trim().rsplit('/').next().unwrap();
    let token = std::fs::read_to_string(lab.path(".orch/token")).unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /api/v1/orchestrator/runs HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         x-stella-tenant: default\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let _ = service.kill();
    let _ = service.wait();
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
