//! Opening the file: permissions, connections, schema.

use std::path::Path;
use std::time::Duration;

use orch::{Error, ErrorKind, Result};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _, SqliteConnection, SqlitePool};

use crate::config::{SqliteConfig, Synchronous};
use crate::error::{is_busy, mapped};

/// The schema, one script per version. Scripts are never changed after a release; new ones are added.
const MIGRATIONS: &[&str] =
    &[include_str!("../migrations/0001_initial.sql"), include_str!("../migrations/0002_lanes_by_queue.sql")];

/// The oldest schema whose runs, entries and documents read as those of the newest.
const READABLE: usize = 1;

/// `orch` in ASCII: marks the file as ours (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x6f72_6368;

pub(crate) struct Connections {
    /// Nothing when the file is only looked at.
    pub(crate) writer: Option<SqliteConnection>,
    pub(crate) readers: SqlitePool,
}

pub(crate) async fn open(config: &SqliteConfig) -> Result<Connections> {
    if config.read_only {
        return Ok(Connections { writer: None, readers: look(config).await? });
    }
    create_private(&config.path)?;
    let options = options(config);
    let mut writer = connect(&options).await.map_err(|error| explained(error, &config.path))?;
    migrate(&mut writer).await?;
    let readers = pool(config, options.read_only(true)).await?;
    Ok(Connections { writer: Some(writer), readers })
}

async fn pool(config: &SqliteConfig, options: SqliteConnectOptions) -> Result<SqlitePool> {
    let pool = SqlitePoolOptions::new().max_connections(config.readers.max(1));
    pool.connect_with(options).await.map_err(mapped)
}

/// Connections to a file that is left as it is. Readers of a WAL file need memory beside it that they share; where
/// they cannot make it, because the directory may not be written, and there is no log, nobody writes and the file may
/// be read as one that does not change. (With a log that would pass over the last commits.)
async fn look(config: &SqliteConfig) -> Result<SqlitePool> {
    if !config.path.exists() {
        return Err(Error::not_found("there is no database here"));
    }
    let opened = look_with(config, options(config)).await;
    let Err(error) = opened else { return opened };
    let mut log = config.path.as_os_str().to_owned();
    log.push("-wal");
    if !matches!(error.kind(), ErrorKind::Refused | ErrorKind::Unavailable)
        || may_write_beside(&config.path).is_ok()
    {
        return Err(error);
    }
    if Path::new(&log).exists() {
        let refused =
            "database has a log (-wal) and its directory may not be written; copy both to one that may";
        return Err(Error::refused(refused).caused_by(error));
    }
    look_with(config, options(config).immutable(true)).await
}

async fn look_with(config: &SqliteConfig, options: SqliteConnectOptions) -> Result<SqlitePool> {
    let readers = pool(config, options).await?;
    let mut connection = readers.acquire().await.map_err(mapped)?;
    let (done, known) = (version(&mut connection).await?, MIGRATIONS.len());
    drop(connection);
    match usize::try_from(done) {
        Ok(done) if (READABLE..=known).contains(&done) => Ok(readers),
        _ => Err(unknown_version(done)),
    }
}

/// A connection for reading besides the pool's, for who holds it long.
pub(crate) async fn reader(config: &SqliteConfig) -> Result<SqliteConnection> {
    options(config).read_only(true).connect().await.map_err(mapped)
}

fn options(config: &SqliteConfig) -> SqliteConnectOptions {
    let file = SqliteConnectOptions::new().filename(&config.path);
    // Asking for the mode may write.
    let file =
        if config.read_only { file.read_only(true) } else { file.journal_mode(SqliteJournalMode::Wal) };
    file.synchronous(match config.synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    })
    .busy_timeout(config.busy_timeout)
    .pragma("cache_size", "-65536")
    .pragma("mmap_size", "268435456")
    // Rare, large checkpoints: frequent ones stall writers for tens of milliseconds.
    .pragma("wal_autocheckpoint", "10000")
    .pragma("temp_store", "MEMORY")
    // What is deleted is overwritten with zeros. It costs what a pruned run's pages cost to write, some 20 us for a
    // run of 12 KiB; everything else costs the same.
    .pragma("secure_delete", "ON")
    // Sets of rows are written by statements of a few sizes, together in one text where they are small.
    .statement_cache_capacity(512)
    .disable_statement_logging()
}

/// Connects. Turning a new file to WAL takes an exclusive lock without waiting for it, so two processes that open
/// it at the same moment need patience.
async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection> {
    let mut attempts = 0;
    loop {
        match options.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if is_busy(&error) && attempts < 100 => attempts += 1,
            Err(error) => return Err(mapped(error)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Of a directory that may not be written SQLite only says that it cannot open the file; the system says why. (The file
/// itself is left alone: closing it would give up the locks that this process holds on it.)
fn explained(error: Error, path: &Path) -> Error {
    match may_write_beside(path) {
        Ok(()) => error,
        Err(cause) => Error::refused("directory of the database may not be written").caused_by(cause),
    }
}

/// Whether files may be made beside the database; what keeps them from it otherwise.
fn may_write_beside(path: &Path) -> std::result::Result<(), std::io::Error> {
    let mut probe = path.as_os_str().to_owned();
    probe.push("-probe");
    match std::fs::OpenOptions::new().write(true).create_new(true).open(&probe) {
        Ok(_) => {
            // Nothing to say: it was made just now and is empty.
            let _ = std::fs::remove_file(&probe);
            Ok(())
        }
        Err(cause) if is_refusal(&cause) => Err(cause),
        Err(_) => Ok(()),
    }
}

fn is_refusal(cause: &std::io::Error) -> bool {
    matches!(cause.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)
}

/// Makes directory and file if they are missing, for their owner only. SQLite gives its side files the same mode.
fn create_private(path: &Path) -> Result<()> {
    let failed = |what: &'static str| {
        let path = path.display().to_string();
        move |cause: std::io::Error| {
            let error = if is_refusal(&cause) { Error::refused(what) } else { Error::unavailable(what) };
            error.with("path", path).caused_by(cause)
        }
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory).map_err(failed("directory of the database cannot be made"))?;
    }
    if !path.exists() {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path).map_err(failed("database file cannot be made"))?;
    }
    Ok(())
}

/// Brings the schema up to date, in one transaction that holds the write lock: of two processes that start at once,
/// one migrates. (The driver's own migrator takes no lock on SQLite.)
async fn migrate(connection: &mut SqliteConnection) -> Result<()> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(mapped)?;
    let version = version(&mut transaction).await?;
    let known = MIGRATIONS.len();
    let Some(missing) = usize::try_from(version).ok().and_then(|done| MIGRATIONS.get(done..)) else {
        return Err(unknown_version(version));
    };
    for script in missing.iter().copied() {
        transaction.execute(sqlx::raw_sql(script)).await.map_err(mapped)?;
    }
    if !missing.is_empty() {
        // A pragma takes no parameters; both are numbers of this file.
        let marks = format!("PRAGMA user_version = {known}; PRAGMA application_id = {APPLICATION_ID}");
        transaction.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(marks))).await.map_err(mapped)?;
    }
    transaction.commit().await.map_err(mapped)
}

/// The version of the schema of a file that is ours or empty.
async fn version(connection: &mut SqliteConnection) -> Result<i64> {
    let number = async |connection: &mut SqliteConnection, sql: &'static str| {
        sqlx::query(sql).fetch_one(connection).await.and_then(|row| row.try_get::<i64, _>(0)).map_err(mapped)
    };
    let version = number(connection, "PRAGMA user_version").await?;
    let owner = number(connection, "PRAGMA application_id").await?;
    let tables = number(connection, "SELECT count(*) FROM sqlite_schema").await?;
    if owner != APPLICATION_ID && tables > 0 {
        return Err(Error::refused("file is a database of another program").with("application_id", owner));
    }
    Ok(version)
}

fn unknown_version(version: i64) -> Error {
    Error::unsupported("database was written by another version of orch; use that version")
        .with("schema", version)
        .with("known", MIGRATIONS.len())
}
