//! What holds always; `docs/guarantees.md` says how each is enforced and which tests show it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

macro_rules! invariants {
    ($($id:ident $sentence:literal,)*) => {
        /// What holds always, under kill -9, partition, duplicate delivery, clock jumps and loss of the queue. Written
        /// as its id.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $(#[doc = $sentence] $id,)*
        }

        impl Invariant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$id),*];

            /// Its id, such as `L1`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$id => stringify!($id),)* }
            }

            /// What holds, in a sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$id => $sentence,)* }
            }
        }
    };
}

invariants! {
    L1 "an acknowledged append is never lost, never altered; entries of a stream are gapless and chained",
    L2 "an append with a stale head changes nothing and says `Conflict`",
    L3 "the fold of the entries equals the stored row, and decides the same everywhere",
    R1 "a step's success is recorded at most once per attempt, and at most one attempt per step succeeds",
    R2 "a worker that lost its attempt cannot record anything for it",
    R3 "a step starts only after what it needs is settled as declared",
    R4 "every unfinished run makes progress within a stated bound after faults stop",
    R5 "the same tenant, DAG, run token and inputs are one run, however often they are submitted",
    T1 "no call with one tenant's identity returns, changes or reveals another tenant's data",
    A1 "no more than the declared limit of slots is ever held; a dead holder's slot comes back after its lease",
    S1 "a step reaches no network address that its spec does not declare, or does not start",
    Q1 "an item pushed and not settled is delivered again after its lease ends",
    P1 "a pruned run leaves nothing behind but its head in the tenant's checkpoint stream",
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Invariant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|invariant| invariant.as_str() == text);
        found.copied().ok_or_else(|| Error::invalid("no such invariant").with("value", text))
    }
}

impl Serialize for Invariant {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invariant_is_written_and_read_by_its_id() {
        for invariant in Invariant::ALL {
            assert_eq!(invariant.to_string().parse::<Invariant>().unwrap(), *invariant);
        }
        assert!("Z9".parse::<Invariant>().is_err());
    }
}
