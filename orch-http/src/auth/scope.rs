//! What callers may do: one table, from which the routes, the OpenAPI document and `docs/http.md` follow.

use std::fmt;
use std::str::FromStr;

/// What a scope asks for besides being granted: a reason, and perhaps a ticket, in the token or in headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elevation {
    /// The beginning of the claims, such as `operator` of `operator_reason`.
    pub name: &'static str,
    /// Whether a ticket is needed; a reason always is.
    pub needs_ticket: bool,
}

impl Elevation {
    /// The longest reason, in bytes.
    pub const REASON_MAX: usize = 256;
    /// The longest ticket, in bytes.
    pub const TICKET_MAX: usize = 128;

    /// The claim that gives the reason.
    #[must_use]
    pub fn reason_claim(&self) -> String {
        format!("{}_reason", self.name)
    }

    /// The claim that names the ticket.
    #[must_use]
    pub fn ticket_claim(&self) -> String {
        format!("{}_ticket", self.name)
    }
}

macro_rules! scopes {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $word:literal $(or $alias:literal)*, $elevation:expr; )*) => {
        /// What a caller may do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Scope { $( $(#[doc = $doc])+ $variant, )* }

        impl Scope {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word that tokens carry.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }

            /// Other words that mean the same.
            #[must_use]
            pub const fn aliases(self) -> &'static [&'static str] {
                match self { $( Self::$variant => &[$($alias),*], )* }
            }

            /// What it allows, in words.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+), )* }.trim()
            }

            /// What it asks for besides.
            #[must_use]
            pub const fn elevation(self) -> Option<Elevation> {
                match self { $( Self::$variant => $elevation, )* }
            }
        }
    };
}

const fn elevated(name: &'static str, needs_ticket: bool) -> Option<Elevation> {
    Some(Elevation { name, needs_ticket })
}

scopes! {
    /// Look at DAGs, runs, steps, logs, artifacts, gates and queues of a tenant.
    Read = "orch:read" or "orchestrator:read", None;
    /// Start runs and jobs, and send signals.
    Write = "orchestrator:write" or "orch:write", None;
    /// Steer runs: cancel, pause, resume, retry, replay, rerun.
    Operate = "orch:operate", elevated("operator", true);
    /// Decide gates.
    Approve = "orch:approve", None;
    /// Lease steps as a worker, and report how they end.
    Work = "orch:work", None;
    /// Change quotas.
    Quota = "orch:quota", elevated("quota", false);
    /// Run over the past.
    Backfill = "orch:backfill", elevated("backfill", true);
    /// Publish and disable DAGs, read the audit stream, export, take checkpoints; and all of `orch:read` and `orchestrator:write`.
    Admin = "orchestrator:admin" or "orch:admin", None;
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = orch::Error;

    fn from_str(text: &str) -> orch::Result<Self> {
        let known = |scope: &&Self| scope.as_str() == text || scope.aliases().contains(&text);
        Self::ALL.iter().find(known).copied().ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|scope| scope.as_str()).collect();
            orch::Error::invalid("unknown scope").with("value", text).with("expected", all.join(", "))
        })
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u32);

impl Scopes {
    /// Every scope.
    #[must_use]
    pub fn all() -> Self {
        Scope::ALL.iter().copied().collect()
    }

    /// The scopes of a token: words it does not share with this table mean nothing here.
    #[must_use]
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().filter_map(|word| word.parse::<Scope>().ok()).collect()
    }

    /// Whether an action with this guard is allowed.
    #[must_use]
    pub fn allow(self, scope: Scope) -> bool {
        let implied = matches!(scope, Scope::Read | Scope::Write) && self.has(Scope::Admin);
        self.has(scope) || implied
    }

    fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u32) != 0
    }

    /// The scopes of the set, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written_and_foreign_ones_mean_nothing() {
        for scope in Scope::ALL {
            for word in [scope.as_str()].iter().chain(scope.aliases()) {
                assert_eq!(word.parse::<Scope>().unwrap(), *scope);
            }
            assert!(scope.meaning().ends_with('.'));
        }
        assert!("orch:everything".parse::<Scope>().is_err());
        assert_eq!(Scopes::of_words(["orch:read", "email"]).iter().collect::<Vec<_>>(), [Scope::Read]);
    }

    #[test]
    fn admin_reads_and_writes_but_does_not_operate() {
        let admin = Scopes::of_words(["orchestrator:admin"]);
        assert!(admin.allow(Scope::Read) && admin.allow(Scope::Write) && admin.allow(Scope::Admin));
        for scope in [Scope::Operate, Scope::Quota, Scope::Backfill, Scope::Work, Scope::Approve] {
            assert!(!admin.allow(scope), "{scope}");
        }
        assert!(!Scopes::of_words(["orch:read"]).allow(Scope::Write));
        assert_eq!(Scopes::all().iter().count(), Scope::ALL.len());
    }
}
