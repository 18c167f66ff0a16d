//! What Redis needs beyond being started: a cluster, and a word to it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::process::{Server, free_port};
use crate::program::Kind;

/// Sends one command and answers the first line of the reply, or the whole of a bulk string.
///
/// # Panics
/// When the server does not answer.
pub fn redis_command(port: u16, words: &[&str]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server answers");
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        write!(request, "${}\r\n{word}\r\n", word.len()).expect("a string takes all");
    }
    stream.write_all(request.as_bytes()).expect("the server listens");
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("the server answers");
    match line.strip_prefix('$').and_then(|length| length.trim_end().parse::<usize>().ok()) {
        None => line.trim_end().to_owned(),
        Some(length) => {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the server answers");
            String::from_utf8_lossy(&body).into_owned()
        }
    }
}

/// Three masters that share the slots.
#[derive(Debug)]
pub struct Cluster {
    /// The masters.
    pub nodes: [Server; 3],
}

impl Cluster {
    /// Starts a cluster; nothing when there is no such program.
    ///
    /// # Panics
    /// When it does not come together.
    #[must_use]
    pub fn start(options: &[&str]) -> Option<Self> {
        let node = || {
            let bus = free_port().to_string();
            let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", &bus];
            let server = Server::start(Kind::Redis, &[&own, options].concat())?;
            Some((server, bus))
        };
        let nodes = [node()?, node()?, node()?];
        for ((node, _), (first, last)) in
            nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")])
        {
            let answer = redis_command(node.port(), &["CLUSTER", "ADDSLOTSRANGE", first, last]);
            assert_eq!(answer, "+OK", "slots are given");
        }
        for (node, bus) in &nodes[1..] {
            let port = node.port().to_string();
            let answer = redis_command(nodes[0].0.port(), &["CLUSTER", "MEET", "127.0.0.1", &port, bus]);
            assert_eq!(answer, "+OK", "nodes meet");
        }
        for _ in 0..300 {
            let whole = |node: &Server| {
                let info = redis_command(node.port(), &["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            };
            if nodes.iter().all(|(node, _)| whole(node)) {
                return Some(Self { nodes: nodes.map(|(node, _)| node) });
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("the cluster does not come together");
    }

    /// The address as the Redis backend takes it.
    #[must_use]
    pub fn url(&self) -> String {
        let [first, others @ ..] = &self.nodes;
        let others: Vec<String> = others.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis://127.0.0.1:{},{}", first.port(), others.join(","))
    }
}
