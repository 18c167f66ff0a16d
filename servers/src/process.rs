//! A server as a child process.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::program::Kind;

/// Looks for a server that starts, a tenth of a second apart.
const PATIENCE: u32 = 300;

/// A server of its own: a port, a directory, a process. It is killed when this is dropped, and when this process dies.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    options: Vec<String>,
    port: u16,
    directory: TempDir,
    child: Child,
}

impl Server {
    /// Starts a server with `options` beside those that say where it listens and keeps its data; nothing when there is
    /// no such program. `{port}` in an option becomes the port, for one that says otherwise how it listens there.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(kind: Kind, options: &[&str]) -> Option<Self> {
        kind.program().find()?;
        let directory = tempfile::tempdir().expect("a directory is made");
        Some(Self::start_in(kind, directory, options))
    }

    /// Starts a server that keeps its data in a directory of the caller's, such as a small file system.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_in(kind: Kind, directory: TempDir, options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let mut failure = String::new();
        // Somebody else may take a port between its being found free and its use.
        for _ in 0..5 {
            let port = free_port();
            let mut child = spawn(kind, port, directory.path(), &options).expect("the program starts");
            match wait_until_it_answers(&mut child, port) {
                Ok(()) => return Self { kind, options, port, directory, child },
                Err(problem) => failure = problem,
            }
        }
        panic!("{} does not start: {failure}", kind.name());
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address as backends take it, without a namespace.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.kind {
            Kind::Redis | Kind::Valkey => "redis",
            Kind::Mongo => "mongodb",
            Kind::Nats => "nats",
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as loss of power would, but for what the system had already been given.
    pub fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`kill`](Self::kill), on the same port and data.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        self.child = spawn(self.kind, self.port, self.directory.path(), &self.options).expect("it starts");
        wait_until_it_answers(&mut self.child, self.port).expect("it starts again");
    }

    /// Stops it in its tracks (SIGSTOP).
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(pid, signal).expect("the server lives");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

fn wait_until_it_answers(child: &mut Child, port: u16) -> Result<(), String> {
    for _ in 0..PATIENCE {
        let answers = TcpStream::connect(("127.0.0.1", port)).is_ok();
        // Somebody else may answer while the child, that found the port taken, is about to end.
        thread::sleep(Duration::from_millis(if answers { 50 } else { 100 }));
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended at once ({status})"));
        }
        if answers {
            return Ok(());
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    Err("it does not answer".to_owned())
}

fn spawn(kind: Kind, port: u16, directory: &Path, options: &[String]) -> io::Result<Child> {
    let program = kind.program().find().ok_or_else(|| io::Error::other("the program is gone"))?;
    // The child dies with this process, however that ends, where the system has the tool for it.
    let mut command = match Path::new("/usr/bin/setpriv").exists() {
        true => {
            let mut command = Command::new("/usr/bin/setpriv");
            command.args(["--pdeathsig", "KILL"]).arg(program);
            command
        }
        false => Command::new(program),
    };
    let (port, data) = (port.to_string(), directory.to_string_lossy().into_owned());
    let arguments: Vec<&str> = match kind {
        Kind::Redis | Kind::Valkey => {
            vec![
                "--bind",
                "127.0.0.1",
                "--port",
                &port,
                "--dir",
                &data,
                "--save",
                "",
                "--loglevel",
                "warning",
            ]
        }
        Kind::Mongo => {
            vec!["--bind_ip", "127.0.0.1", "--port", &port, "--dbpath", &data, "--nounixsocket", "--quiet"]
        }
        Kind::Nats => vec!["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir", &data],
    };
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("server.log"))?;
    command
        .args(arguments)
        .args(options.iter().map(|option| option.replace("{port}", &port)))
        .env("LD_LIBRARY_PATH", kind.program().folder().join("lib"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    spawn_on_a_thread_that_stays(command)
}

/// A child is told to die with the thread that made it, so that thread must not end before the process.
fn spawn_on_a_thread_that_stays(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static ORDERS: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in orders {
                // Nobody waits only if its test has failed.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (reply, child) = mpsc::channel();
    let sent = orders.lock().map(|orders| orders.send((command, reply)).is_ok());
    if !sent.unwrap_or(false) {
        return Err(io::Error::other("the thread that starts servers has ended"));
    }
    child.recv().map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_in_place_of_a_server_that_ends_is_not_taken_for_it() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut child = Command::new("sh").args(["-c", "sleep 0.01; exit 1"]).spawn().unwrap();
        let answer = wait_until_it_answers(&mut child, other.local_addr().unwrap().port());
        assert!(answer.is_err_and(|problem| problem.contains("ended")));
    }
}
