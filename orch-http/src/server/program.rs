//! What `orch-server` does with its words; `orch serve` is the same.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::{Backends, Config, Problem, Started, Told, new_token, run, start_log};
use crate::auth::Scope;

/// The HTTP service of orch.
///
/// Without a word it listens on 127.0.0.1:8470, keeps everything in `.orch/orch.db`, and writes a token for the user of this
/// machine to `.orch/token`. What a file says goes before the defaults, the environment before the file, and flags before
/// both.
///
/// Exit codes: 0 ended as told; 1 it cannot run, or was told something wrong; 130 ended at once by a second signal.
#[derive(Debug, Parser)]
#[command(name = "orch-server", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    told: ToldBefore,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What goes before the file.
#[derive(Args, Debug)]
struct ToldBefore {
    /// The configuration [default: `orch-server.toml`, if it is there]
    #[arg(long, global = true, env = "ORCH_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen; port 0 takes a free one
    #[arg(long, global = true, env = "ORCH_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where runs are: `sqlite:PATH`, `mongodb://…`, `redis://…`, `memory:`, or `@FILE` for one that stands in a file
    #[arg(long, global = true, env = "ORCH_STORE", hide_env_values = true, value_name = "URL")]
    store: Option<String>,
    /// Where hints wait, also `nats://…`
    #[arg(long, global = true, env = "ORCH_QUEUE", hide_env_values = true, value_name = "URL")]
    queue: Option<String>,
    /// Where slots are counted, also `nats://…`
    #[arg(long, global = true, env = "ORCH_LOCK", hide_env_values = true, value_name = "URL")]
    lock: Option<String>,
    /// Where artifacts are kept
    #[arg(long, global = true, env = "ORCH_ARTIFACTS", value_name = "DIR")]
    artifacts: Option<PathBuf>,
    /// What to log, such as `info` or `warn,orch=debug`
    #[arg(long, global = true, env = "ORCH_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// Write the port that it listens on to this file, once it does
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Tokens for small set-ups
    #[command(subcommand)]
    Token(TokenCommand),
    /// Ask a service on this machine whether it is ready; exits with 1 if it is not
    Health,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say everything that is wrong with it
    Check,
    /// Print it as it takes effect
    Show,
    /// Print a file with every setting and its default
    Example,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Draw a token: it is printed once, and the line for the tokens file holds only its hash
    New {
        /// Who holds it, for the record
        #[arg(long)]
        subject: String,
        /// The tenants it speaks for; `*` for all
        #[arg(long, required = true, value_name = "ID")]
        tenant: Vec<String>,
        /// What it allows, such as `orch:read`
        #[arg(long, required = true)]
        scope: Vec<Scope>,
    },
}

/// Does what the words of a command line say, the first of which names the program: serves, or looks after configuration and
/// tokens. Outside of any runtime: it brings its own.
pub fn program(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Whoever speaks TLS in this process does it with this.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Cli { told, command } = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(told) => {
            // Help is no failure, and a reader that has gone is none either.
            let _ = told.print();
            return if told.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let done = match command {
        None => serve(&told),
        Some(Command::Config(ConfigCommand::Example)) => {
            print(&Config::example());
            Ok(())
        }
        Some(Command::Config(ConfigCommand::Check)) => check(&told),
        Some(Command::Config(ConfigCommand::Show)) => show(&told),
        Some(Command::Token(TokenCommand::New { subject, tenant, scope })) => {
            new_token(&subject, &tenant, &scope).map_err(|error| error.to_string()).map(|(token, line)| {
                print(&format!(
                    "token (it cannot be shown again): {}\nline for the tokens file:\n{line}\n",
                    token.expose()
                ));
            })
        }
        Some(Command::Health) => health(&told),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) {
    // A reader that has gone is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "orch-server: {text}");
}

/// The configuration as it takes effect, or everything that is wrong with it.
fn configuration(told: &ToldBefore) -> Result<Config, String> {
    let all = |problems: Vec<Problem>| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        format!("the configuration has problems\n{}", lines.join("\n"))
    };
    let usual = Path::new("orch-server.toml");
    let mut config = match (&told.config, usual.exists()) {
        (Some(path), _) => Config::read(path).map_err(all)?,
        (None, true) => Config::read(usual).map_err(all)?,
        (None, false) => Config::default(),
    };
    if let Some(address) = told.listen {
        config.listen.address = address;
    }
    if let Some(store) = named("ORCH_STORE", &told.store)? {
        config.backends.store = store;
    }
    let Backends { queue, lock, .. } = &mut config.backends;
    for (name, given, field) in [("ORCH_QUEUE", &told.queue, queue), ("ORCH_LOCK", &told.lock, lock)] {
        *field = named(name, given)?.or(field.take());
    }
    if told.artifacts.is_some() {
        config.backends.artifacts.clone_from(&told.artifacts);
    }
    if let Some(level) = &told.log {
        config.log.level.clone_from(level);
    }
    match config.check() {
        none if none.is_empty() => Ok(config),
        some => Err(all(some)),
    }
}

/// An address as it was given, or the file that holds it: `ORCH_STORE_FILE=PATH` says the same as `ORCH_STORE=@PATH`.
fn named(name: &str, given: &Option<String>) -> Result<Option<String>, String> {
    let file = format!("{name}_FILE");
    match (std::env::var(&file), std::env::var_os(name)) {
        (Err(_), _) => Ok(given.clone()),
        (Ok(_), Some(_)) => Err(format!("{name} and {file} are both set; leave one of them out")),
        // A flag goes before both.
        (Ok(path), None) => Ok(Some(given.clone().unwrap_or_else(|| format!("@{path}")))),
    }
}

fn check(told: &ToldBefore) -> Result<(), String> {
    configuration(told)?;
    print("the configuration is good\n");
    Ok(())
}

fn show(told: &ToldBefore) -> Result<(), String> {
    let mut config = configuration(told)?;
    // Addresses may hold passwords.
    let places =
        [Some(&mut config.backends.store), config.backends.queue.as_mut(), config.backends.lock.as_mut()];
    // The name of a file that holds one tells nothing.
    let secret = |place: &&mut String| place.contains('@') && !place.starts_with('@');
    for place in places.into_iter().flatten().filter(secret) {
        let scheme = place.split("://").next().unwrap_or("").to_owned();
        *place = format!("{scheme}://[redacted]");
    }
    print(&toml::to_string(&config).map_err(|error| error.to_string())?);
    Ok(())
}

fn serve(told: &ToldBefore) -> Result<(), String> {
    let config = configuration(told)?;
    start_log(&config).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| format!("it cannot start: {cause}"))?;
    let mut speaker = Speaker { port_file: told.port_file.clone() };
    let done = runtime.block_on(run(&config, &mut speaker));
    runtime.shutdown_timeout(Duration::from_secs(2));
    done.map_err(|advised| {
        let hint = advised.hint.map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        format!("{}{hint}", advised.error)
    })
}

/// Tells a person how to reach the service, and a program on which port.
struct Speaker {
    port_file: Option<PathBuf>,
}

impl Told for Speaker {
    fn started(&mut self, at: &Started) {
        let mut text = format!(
            "orch-server {} listens on {}\n  store  {}\n",
            env!("CARGO_PKG_VERSION"),
            at.url,
            at.store
        );
        if let Some(file) = &at.token_file {
            let file = file.display();
            text.push_str(&format!("  token  {file} (of this machine's user, drawn anew at every start)\n"));
            text.push_str(&format!(
                "  try    curl -H \"Authorization: Bearer $(cat {file})\" -H \"X-Stella-Tenant: default\" {}{}/runs\n",
                at.url,
                crate::BASE
            ));
        }
        for warning in &at.warnings {
            text.push_str(&format!("  warning: {warning}\n"));
        }
        print(&text);
        if let Some(file) = &self.port_file
            && let Err(error) = std::fs::write(file, at.address.port().to_string())
        {
            say(&format!("{}: {error}", file.display()));
        }
    }
}

/// Asks for `/admin/ready`, as a container's health check does.
fn health(told: &ToldBefore) -> Result<(), String> {
    use std::io::Read as _;
    let config = configuration(told)?;
    let mut address = config.listen.address;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    if config.listen.tls_cert.is_some() {
        return Err("over TLS, ask for /admin/ready with a client that knows the certificate".to_owned());
    }
    let wait = Duration::from_secs(5);
    let ask = || {
        let mut stream = std::net::TcpStream::connect_timeout(&address, wait)?;
        stream.set_read_timeout(Some(wait))?;
        let path = format!("{}/admin/ready", crate::BASE);
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok::<_, std::io::Error>(head)
    };
    match ask() {
        Ok(head) if &head[9..] == b"200" => Ok(()),
        Ok(head) => Err(format!("not ready: {}", String::from_utf8_lossy(&head[9..]))),
        Err(error) => Err(format!("{address}: {error}")),
    }
}
