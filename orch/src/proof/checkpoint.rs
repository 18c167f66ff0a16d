//! Checkpoints: the heads of streams at one moment, signed, so that a cut tail or a deleted stream can be shown.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::append::append_by;
use super::stream::is_canonical;
use super::{PAGE, read_page, read_runs};
use crate::digest::{parse_hex, write_hex};
use crate::error::{Error, Result};
use crate::id::TenantId;
use crate::ledger::{Chain, CheckpointTaken, Entry, Event, Head, Stream, StreamHead, read_chain};
use crate::store::{PAGE_MAX, Store};
use crate::time::Timestamp;

/// Heads in one entry; a larger checkpoint takes several.
const HEADS: usize = 10_000;

const FORMAT: &str = "orch/checkpoint/v1";

/// An Ed25519 key to sign checkpoints with (RFC 8032). Keep it away from the database.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key whose 32-byte seed is written as 64 lowercase hex digits.
    ///
    /// # Errors
    /// `Invalid` for anything else; the text is not repeated.
    pub fn from_hex(text: &str) -> Result<Self> {
        let seed = parse_hex::<32>(text.trim())
            .ok_or_else(|| Error::invalid("a signing key is 64 lowercase hex digits"))?;
        Ok(Self(ed25519_dalek::SigningKey::from_bytes(&seed)))
    }

    /// Signs `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// What others verify its signatures with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

/// The public half of a [`SigningKey`], written as 64 lowercase hex digits.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Whether this key has signed `message`. Strict: no weak keys, no signature in a second spelling.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }

    fn verifies(&self, message: &[u8], signature: &str) -> bool {
        parse_hex::<64>(signature).is_some_and(|bytes| self.verify(message, &bytes))
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_hex::<32>(text.trim())
            .and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok())
            .map(Self)
            .ok_or_else(|| Error::invalid("a public key is 64 lowercase hex digits of a point on the curve"))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.0.as_bytes(), f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A checkpoint outside the store: the very entries, so that it proves itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    entries: Vec<(Entry, Head)>,
    lines: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    format: String,
    #[serde(borrow)]
    entries: Vec<&'a RawValue>,
}

impl Checkpoint {
    /// A checkpoint out of consecutive lines of a `checkpoint` stream.
    fn of_lines(lines: String) -> Result<Self> {
        let first = lines.lines().next().unwrap_or_default();
        let first = Entry::read(first)?;
        let before = Head { hash: first.prev, seq: first.seq.saturating_sub(1) };
        let entries = read_chain(before, &lines)
            .map(|entry| match entry? {
                (entry, line, head) if is_canonical(&entry, line) => Ok((entry, head)),
                (entry, ..) => Err(Error::corrupt("entry is not in its one spelling").with("seq", entry.seq)),
            })
            .collect::<Result<Vec<_>>>()?;
        let fits = |entry: &Entry| {
            entry.seq > 0
                && entry.stream == Stream::Checkpoint
                && entry.tenant == first.tenant
                && matches!(entry.event, Event::CheckpointTaken(_))
        };
        if !entries.iter().all(|(entry, _)| fits(entry)) {
            return Err(Error::invalid("entries are not those of one checkpoint"));
        }
        Ok(Self { entries, lines })
    }

    /// Reads an exported checkpoint. Says nothing of its signature.
    ///
    /// # Errors
    /// `Invalid` or `Corrupt` when it is not one.
    pub fn from_json(text: &str) -> Result<Self> {
        let file: File<'_> = serde_json::from_str(text)
            .map_err(|cause| Error::invalid("not a checkpoint").caused_by(cause))?;
        if file.format != FORMAT {
            return Err(Error::invalid("checkpoint has a format this build does not read")
                .with("format", file.format)
                .with("expected", FORMAT));
        }
        let mut lines = String::new();
        for entry in file.entries {
            lines.push_str(entry.get());
            lines.push('\n');
        }
        Self::of_lines(lines)
    }

    /// The checkpoint as a small JSON file.
    #[must_use]
    pub fn to_json(&self) -> String {
        let entries: Vec<&str> = self.lines.lines().collect();
        format!("{{\"format\":\"{FORMAT}\",\"entries\":[\n{}\n]}}\n", entries.join(",\n"))
    }

    /// Whose checkpoint it is.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.entries.first().map(|(entry, _)| &entry.tenant)
    }

    /// Verifies its signatures, by `key` if one is given, otherwise by the key that it names itself.
    ///
    /// # Errors
    /// `Corrupt` when a signature is wrong, missing although a key is given, or by another key.
    pub fn verify(&self, key: Option<&PublicKey>) -> Result<()> {
        self.entries.iter().try_for_each(|(entry, _)| verify_entry(entry, key))
    }

    /// Every head it names, its own entries' included, with the sequence number of the entry that names it.
    pub fn heads(&self) -> impl Iterator<Item = (u64, StreamHead)> + '_ {
        self.entries.iter().flat_map(|(entry, head)| {
            let own = StreamHead { head: *head, stream: Stream::Checkpoint };
            let named = match &entry.event {
                Event::CheckpointTaken(taken) => taken.heads.as_slice(),
                _ => &[],
            };
            named.iter().cloned().chain([own]).map(|head| (entry.seq, head))
        })
    }
}

/// What is signed begins with this.
const SIGNED: &str = "orch/checkpoint/v2";
/// What was signed at first, and is still verified: tenant, time and heads alone.
const SIGNED_FIRST: &str = "orch/checkpoint/v1";

/// What is signed: all that the entry says, where it stands included, but for the signature.
fn signed_bytes(unsigned: &str) -> Vec<u8> {
    format!("{SIGNED}\n{unsigned}").into_bytes()
}

/// What was signed at first.
fn first_signed_bytes(entry: &Entry, heads: &[StreamHead]) -> Result<Vec<u8>> {
    let mut bytes = format!("{SIGNED_FIRST}\n{}\n{}\n", entry.tenant, entry.at).into_bytes();
    serde_json::to_writer(&mut bytes, heads)
        .map_err(|cause| Error::internal("heads do not serialise").caused_by(cause))?;
    Ok(bytes)
}

/// Verifies the signature of a `checkpoint.taken` entry.
pub(super) fn verify_entry(entry: &Entry, key: Option<&PublicKey>) -> Result<()> {
    let Event::CheckpointTaken(taken) = &entry.event else {
        return Err(Error::corrupt("not a checkpoint").with("type", entry.event.type_name()));
    };
    let (named, signature) = match (&taken.key, &taken.signature, key) {
        (Some(named), Some(signature), _) => (named, signature),
        (None, None, None) => return Ok(()),
        _ => return Err(Error::corrupt("checkpoint is not signed").with("seq", entry.seq)),
    };
    if key.is_some_and(|key| key.to_string() != *named) {
        return Err(Error::corrupt("checkpoint is signed by another key").with("key", named));
    }
    let unsigned = CheckpointTaken { signature: None, ..taken.clone() };
    let message = signed_bytes(&Entry { event: unsigned.into(), ..entry.clone() }.to_line()?);
    let key = named.parse::<PublicKey>()?;
    if key.verifies(&message, signature) || key.verifies(&first_signed_bytes(entry, &taken.heads)?, signature)
    {
        return Ok(());
    }
    Err(Error::corrupt("signature of the checkpoint is wrong").with("seq", entry.seq))
}

/// Which heads a checkpoint names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of all finished runs.
    All,
    /// Those that no checkpoint in the store names yet.
    SinceLast,
}

/// A request for a checkpoint.
#[derive(Debug)]
pub struct TakeCheckpoint {
    /// Whose streams.
    pub tenant: TenantId,
    /// Who asks.
    pub actor: String,
    /// The present instant.
    pub now: Timestamp,
    /// Which heads.
    pub scope: Scope,
    /// The key to sign with.
    pub key: Option<SigningKey>,
}

/// Takes a checkpoint: appends the heads of finished runs and of the `audit` stream to the `checkpoint` stream.
/// Answers nothing when there is nothing to name. Holds about 100 bytes per finished run in memory.
///
/// # Errors
/// As the store.
pub async fn take_checkpoint(store: &dyn Store, request: &TakeCheckpoint) -> Result<Option<Checkpoint>> {
    let tenant = &request.tenant;
    let covered = match request.scope {
        Scope::All => BTreeSet::new(),
        Scope::SinceLast => covered(store, tenant).await?,
    };
    let mut heads = Vec::new();
    let audit = read_page(store, tenant, Stream::Audit, 0, 1).await?.head;
    heads.push(StreamHead { head: audit, stream: Stream::Audit });
    let mut cursor = None;
    loop {
        let (rows, next) = read_runs(store, tenant, cursor, PAGE_MAX).await?;
        let finished = rows.into_iter().filter(|row| row.status.is_terminal());
        heads.extend(finished.map(|row| StreamHead { head: row.head, stream: Stream::Run(row.run) }));
        if next.is_none() {
            break;
        }
        cursor = next;
    }
    heads.retain(|named| named.head.seq > 0 && !covered.contains(&(named.stream, named.head)));
    heads.sort_by_key(|named| named.stream);
    heads.dedup();
    if heads.is_empty() {
        return Ok(None);
    }
    let write =
        |chain: &mut Chain| heads.chunks(HEADS).try_for_each(|chunk| push_signed(chain, request, chunk));
    append_by(store, tenant, Stream::Checkpoint, &write).await.and_then(Checkpoint::of_lines).map(Some)
}

fn push_signed(chain: &mut Chain, request: &TakeCheckpoint, heads: &[StreamHead]) -> Result<()> {
    let key = request.key.as_ref().map(|key| key.public().to_string());
    let mut taken = CheckpointTaken { heads: heads.to_vec(), key, signature: None };
    if let Some(key) = &request.key {
        let mut unsigned = Chain::new(&request.tenant, Stream::Checkpoint, chain.head());
        unsigned.push(&request.actor, request.now, &taken.clone().into())?;
        let (line, _) = unsigned.finish()?;
        let signature = key.0.sign(&signed_bytes(line.trim_end())).to_bytes();
        taken.signature = Some(Hex(&signature).to_string());
    }
    chain.push(&request.actor, request.now, &taken.into()).map(drop)
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(self.0, f)
    }
}

/// The heads that checkpoints in the store name already.
async fn covered(store: &dyn Store, tenant: &TenantId) -> Result<BTreeSet<(Stream, Head)>> {
    let mut covered = BTreeSet::new();
    let mut head = Head::EMPTY;
    loop {
        let page = read_page(store, tenant, Stream::Checkpoint, head.seq, PAGE).await?;
        for entry in read_chain(head, &page.lines) {
            let (entry, _, after) = entry?;
            if let Event::CheckpointTaken(taken) = entry.event {
                covered.extend(taken.heads.into_iter().map(|named| (named.stream, named.head)));
            }
            head = after;
        }
        if !page.more() || page.lines.is_empty() {
            return Ok(covered);
        }
    }
}
