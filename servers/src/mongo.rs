//! Making MongoDB servers a replica set, and having its primary step down.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::process::Server;

/// Makes a server that was started with `--replSet rs` a replica set of one, and waits until it is its primary.
///
/// # Panics
/// When it does not become one.
pub fn initiate(server: &Server) {
    initiate_set(std::slice::from_ref(server));
}

/// Makes servers that were started with `--replSet rs` a replica set, and waits until it has a primary. Who hears nothing of
/// the primary for two seconds calls for another.
///
/// # Panics
/// When none is elected.
pub fn initiate_set(servers: &[Server]) {
    let member = |(number, server): (usize, &Server)| {
        let host = format!("127.0.0.1:{}", server.port());
        let member = document(&[int("_id", i32::try_from(number).expect("few")), string("host", &host)]);
        embedded(0x03, &number.to_string(), &member)
    };
    let members: Vec<Vec<u8>> = servers.iter().enumerate().map(member).collect();
    let settings = document(&[int("electionTimeoutMillis", 2_000), int("heartbeatIntervalMillis", 500)]);
    let config = document(&[
        string("_id", "rs"),
        embedded(0x04, "members", &document(&members)),
        embedded(0x03, "settings", &settings),
    ]);
    let reply = command(servers[0].port(), &[embedded(0x03, "replSetInitiate", &config)]);
    assert!(says(&reply, b"\x01ok\0\0\0\0\0\0\0\xf0\x3f"), "the replica set is made: {}", readable(&reply));
    let _ = primary(servers.iter());
}

/// The port of the primary of a replica set of which these servers answer, once it has one.
///
/// # Panics
/// When none is elected, or a server does not answer.
#[must_use]
pub fn primary<'a>(servers: impl Iterator<Item = &'a Server> + Clone) -> u16 {
    for _ in 0..300 {
        for server in servers.clone() {
            let hello = command(server.port(), &[int("hello", 1)]);
            if says(&hello, b"\x08isWritablePrimary\0\x01") {
                return server.port();
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("the replica set has no primary");
}

/// Has the primary give up its part for so many seconds, and be elected again: there is no other.
///
/// # Panics
/// When it does not.
pub fn step_down(server: &Server, seconds: i32) {
    let force = element(0x08, "force", &[1]);
    let reply = command(server.port(), &[int("replSetStepDown", seconds), force]);
    assert!(says(&reply, b"\x01ok\0\0\0\0\0\0\0\xf0\x3f"), "it steps down: {}", readable(&reply));
}

/// One command to the `admin` database (OP_MSG, <https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/>).
fn command(port: u16, elements: &[Vec<u8>]) -> Vec<u8> {
    let body = document(&[elements, &[string("$db", "admin")]].concat());
    let length = u32::try_from(16 + 4 + 1 + body.len()).expect("a command is short");
    let mut message = Vec::new();
    for word in [length, 1, 0, 2013, 0] {
        message.extend(word.to_le_bytes());
    }
    message.push(0);
    message.extend(body);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server answers");
    stream.write_all(&message).expect("the server listens");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("the server answers");
    let mut reply = vec![0; u32::from_le_bytes(length) as usize - 4];
    stream.read_exact(&mut reply).expect("the server answers");
    reply
}

/// A BSON document (<https://bsonspec.org/spec.html>) of these elements.
fn document(elements: &[Vec<u8>]) -> Vec<u8> {
    let content = elements.concat();
    let length = u32::try_from(content.len() + 5).expect("a document is short");
    [&length.to_le_bytes()[..], &content, &[0]].concat()
}

fn element(kind: u8, name: &str, value: &[u8]) -> Vec<u8> {
    [&[kind], name.as_bytes(), &[0], value].concat()
}

fn int(name: &str, value: i32) -> Vec<u8> {
    element(0x10, name, &value.to_le_bytes())
}

fn string(name: &str, value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len() + 1).expect("a string is short");
    element(0x02, name, &[&length.to_le_bytes()[..], value.as_bytes(), &[0]].concat())
}

fn embedded(kind: u8, name: &str, document: &[u8]) -> Vec<u8> {
    element(kind, name, document)
}

fn says(reply: &[u8], part: &[u8]) -> bool {
    reply.windows(part.len()).any(|window| window == part)
}

fn readable(reply: &[u8]) -> String {
    reply.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' }).collect()
}
