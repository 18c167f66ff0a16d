//! Looking for commits of other processes, which cannot wake who waits here.

use std::time::Duration;

use orch::{Error, Result};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::DATA_VERSION;
use crate::config::SqliteConfig;
use crate::connect;
use crate::error::mapped;

/// How often a waiting queue looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What all who wait in this process share. It has a connection of its own, so that waiting takes no reader away.
#[derive(Debug, Default)]
pub(super) struct Watcher(tokio::sync::Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Asleep,
    Awake {
        connection: SqliteConnection,
        /// What was seen at the last look.
        version: i64,
    },
    Closed,
}

impl Watcher {
    /// Returns when somebody has committed. A look compares one number in shared memory (`PRAGMA data_version`).
    pub(super) async fn changed(&self, config: &SqliteConfig) -> Result<()> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let mut state = self.0.lock().await;
            if state.look(config).await? {
                return Ok(());
            }
        }
    }

    pub(super) async fn close(&self) {
        let state = std::mem::replace(&mut *self.0.lock().await, State::Closed);
        if let State::Awake { connection, .. } = state
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "close failed");
        }
    }
}

impl State {
    async fn look(&mut self, config: &SqliteConfig) -> Result<bool> {
        if matches!(self, Self::Asleep) {
            *self = Self::Awake { connection: connect::reader(config).await?, version: 0 };
        }
        let Self::Awake { connection, version } = self else {
            return Err(Error::closed("database was closed"));
        };
        let row = sqlx::query(DATA_VERSION).fetch_one(connection).await;
        let now: i64 = row.and_then(|row| row.try_get(0)).map_err(mapped)?;
        Ok(std::mem::replace(version, now) != now)
    }
}
