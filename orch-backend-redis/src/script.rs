//! The scripts, and how they are called.

use std::sync::LazyLock;

use orch::Result;
use redis::{Cmd, FromRedisValue, RedisError, Script as Source, ServerErrorKind, ToRedisArgs};

use crate::connect::Server;
use crate::error::{Access, mapped};

/// A script: its text, and the name by which the server knows it.
pub(crate) struct Script {
    source: LazyLock<Source>,
    text: &'static str,
    access: Access,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident: $access:ident $file:literal;)*) => {
        $($(#[$doc])*
        pub(crate) static $name: Script = Script {
            source: LazyLock::new(|| Source::new(include_str!(concat!("../scripts/", $file)))),
            text: include_str!(concat!("../scripts/", $file)),
            access: Access::$access,
        };)*
    };
}

scripts! {
    APPEND: Write "append.lua";
    ENTRIES: Read "entries.lua";
    FEED: Write "feed.lua";
    DUE: Read "due.lua";
    RUNS: Read "runs.lua";
    ROWS: Read "rows.lua";
    PRUNE: Write "prune.lua";
    PUT_DOC: Write "put_doc.lua";
    DOCS: Read "docs.lua";
    PUSH: Write "push.lua";
    ENTER: Write "enter.lua";
    CLAIM: Write "claim.lua";
    RENEW: Write "renew.lua";
    SETTLE: Write "settle.lua";
    FORGET_TENANT: Write "forget_tenant.lua";
    ACQUIRE: Write "acquire.lua";
    RENEW_SLOTS: Write "renew_slots.lua";
    RELEASE: Write "release.lua";
    SWAP: Write "swap.lua";
    PROBE: Write "probe.lua";
}

impl Script {
    /// A call with these keys, to which arguments are added.
    pub(crate) fn on(&'static self, keys: &[&str]) -> Call {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.source.get_hash()).arg(keys.len()).arg(keys);
        Call { script: self, command }
    }
}

/// A call of a script.
pub(crate) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Call {
    pub(crate) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Sends it; a server that does not know the script is told it first.
    pub(crate) async fn send<T: FromRedisValue>(&self, server: &Server) -> Result<T> {
        let mut answer = server.query(&self.command).await;
        if answer.as_ref().is_err_and(is_unknown_script) {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(self.script.text);
            answer = match server.query::<redis::Value>(&load).await {
                Ok(_) => server.query(&self.command).await,
                Err(error) => Err(error),
            };
        }
        answer.map_err(|error| mapped(&error, self.script.access))
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}
