//! The one error that crosses the seams.
//!
//! A kind exists only where a caller would act differently. Messages are lowercase; variables come last
//! as ``key=`value` ``; a driver's own error is the source, never part of a public signature.

use std::borrow::Cow;
use std::fmt;

/// Shorthand for a result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Somebody else changed it first: reload and decide again.
    Conflict,
    /// The lease is no longer held: stop the work and drop its result.
    LeaseLost,
    /// It is not there, or it is another tenant's.
    NotFound,
    /// It is there already.
    AlreadyExists,
    /// The call is wrong: fix it.
    Invalid,
    /// The call is allowed in principle but refused in this state or by policy.
    Refused,
    /// A documented limit would be exceeded.
    LimitExceeded,
    /// This backend or build cannot do it.
    Unsupported,
    /// It cannot be reached now: back off and try again.
    Unavailable,
    /// The write may or may not have happened: read first.
    Indeterminate,
    /// Stored data does not verify.
    Corrupt,
    /// The component was shut down.
    Closed,
    /// A defect in orch.
    Internal,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anybody changing it.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Conflict | Self::Unavailable | Self::Indeterminate)
    }

    /// The kind in words, lowercase.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::LeaseLost => "lease lost",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Invalid => "invalid",
            Self::Refused => "refused",
            Self::LimitExceeded => "limit exceeded",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Indeterminate => "indeterminate",
            Self::Corrupt => "corrupt",
            Self::Closed => "closed",
            Self::Internal => "internal",
        }
    }
}

/// An error of orch. Cheap to move; its parts are in [`ErrorKind`] and the accessors.
pub struct Error(Box<Parts>);

struct Parts {
    kind: ErrorKind,
    message: Cow<'static, str>,
    operation: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

impl Error {
    /// An error of `kind` saying `message`.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            kind,
            message: message.into(),
            operation: None,
            context: Vec::new(),
            source: None,
        }))
    }

    constructors! {
        /// [`ErrorKind::Conflict`].
        conflict => Conflict,
        /// [`ErrorKind::LeaseLost`].
        lease_lost => LeaseLost,
        /// [`ErrorKind::NotFound`].
        not_found => NotFound,
        /// [`ErrorKind::AlreadyExists`].
        already_exists => AlreadyExists,
        /// [`ErrorKind::Invalid`].
        invalid => Invalid,
        /// [`ErrorKind::Refused`].
        refused => Refused,
        /// [`ErrorKind::LimitExceeded`].
        limit_exceeded => LimitExceeded,
        /// [`ErrorKind::Unsupported`].
        unsupported => Unsupported,
        /// [`ErrorKind::Unavailable`].
        unavailable => Unavailable,
        /// [`ErrorKind::Indeterminate`].
        indeterminate => Indeterminate,
        /// [`ErrorKind::Corrupt`].
        corrupt => Corrupt,
        /// [`ErrorKind::Closed`].
        closed => Closed,
        /// [`ErrorKind::Internal`].
        internal => Internal,
    }

    /// Adds a variable; it prints as ``key=`value` ``.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Names the operation that failed, such as `store.append`.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation = Some(operation);
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// The message without operation and context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The message and its variables in one sentence, for a text that is read rather than searched, such as
    /// ``dag id may hold only a-z 0-9 . _ -, not `A`; found `A1` ``. A found value is cut after 60 characters.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.0.message.to_string();
        for (key, value) in &self.0.context {
            text.push_str(&match *key {
                "value" if value.is_empty() => String::new(),
                "value" => match value.char_indices().nth(61) {
                    Some((end, _)) => format!("; found `{}…`", &value[..end]),
                    None => format!("; found `{value}`"),
                },
                "character" => format!(", not `{value}`"),
                "expected" => format!("; expected {value}"),
                key => format!(" ({key} `{value}`)"),
            });
        }
        text
    }

    /// The operation that failed, if known.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The variables of the message.
    #[must_use]
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (key, value) in &self.0.context {
            write!(f, " {key}=`{value}`")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} error", self.0.kind.as_str())?;
        if let Some(operation) = self.0.operation {
            write!(f, " in {operation}")?;
        }
        write!(f, ": {self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, "\n  caused by: {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_no_raw_variables() {
        let error = Error::invalid("id may hold only a-z").with("character", 'A').with("value", "A1");
        assert_eq!(error.sentence(), "id may hold only a-z, not `A`; found `A1`");
        assert_eq!(
            Error::not_found("no such dag").with("dag", "inner").sentence(),
            "no such dag (dag `inner`)"
        );
        assert!(Error::invalid("x").with("value", "é".repeat(1_000)).sentence().len() < 200);
    }

    #[test]
    fn display_puts_variables_last_and_debug_adds_kind_operation_and_causes() {
        let error = Error::unavailable("cannot open the database")
            .with("path", "/x")
            .during("store.open")
            .caused_by(std::io::Error::other("disk on fire"));
        assert_eq!(error.to_string(), "cannot open the database path=`/x`");
        assert_eq!(
            format!("{error:?}"),
            "unavailable error in store.open: cannot open the database path=`/x`\n  caused by: disk on fire"
        );
        assert!(error.is_retryable());
    }
}
