//! What must hold for proof that comes from outside: exports with their manifests, and checkpoints.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use orch::ledger::{Chain, Entry, Head, Stream, read_chain};
use orch::planner::{RunState, unshared_plan};
use orch::proof::{Checkpoint, Manifest, Report, SigningKey, VerifyOptions, verify_export};
use orch::store::{Append, MemoryStore, Store};
use orch::{Digest, TenantId, Timestamp};

/// How many changes of one byte are tried on a checkpoint, which is cheap, and on an export; which, the input itself
/// draws.
const CHANGES: usize = 4;
const EXPORT_CHANGES: usize = 1;

/// Lines, and after a line of `%` a manifest, are verified without a panic, as they are and chained anew. What is
/// clean can be taken into a store and comes out of it byte for byte; no other manifest describes it, and no byte of
/// it can be changed.
pub fn export(text: &str) {
    let (file, manifest) = text.split_once("%\n").unwrap_or((text, ""));
    let manifest: Option<Manifest> = serde_json::from_str(manifest).ok();
    let entries: Vec<Entry> = file.lines().filter_map(|line| Entry::read(line).ok()).collect();
    let nobody = || TenantId::new("t").expect("a short word is a tenant");
    let tenant = entries.first().map_or_else(nobody, |entry| entry.tenant.clone());
    is_verified(file, &tenant, manifest.as_ref());
    let chained = chained(&entries, &tenant);
    if chained != file {
        is_verified(&chained, &tenant, manifest.as_ref());
    }
}

fn is_verified(file: &str, tenant: &TenantId, given: Option<&Manifest>) {
    let verify = |text: &str, manifest: Option<&Manifest>| -> Report {
        let options = VerifyOptions::default();
        verify_export(text.as_bytes(), tenant, manifest, &options).expect("memory can be read")
    };
    let clean = verify(file, None).is_clean();
    let described = given.is_some_and(|manifest| verify(file, Some(manifest)).is_clean());
    assert!(clean || !described, "a manifest heals nothing");
    // Whoever cuts off the last newline has changed a byte.
    if !clean || !(file.is_empty() || file.ends_with('\n')) {
        return;
    }
    let (copy, real) = copied(file, tenant);
    assert_eq!(copy, file);
    assert_eq!(verify(file, Some(&real)).problems, []);
    if let Some(given) = given.filter(|_| described) {
        let facts = |manifest: &Manifest| {
            let mut heads = manifest.heads.clone();
            heads.sort_by_key(|named| named.stream);
            (manifest.format.clone(), manifest.tenant.clone(), manifest.counts, manifest.sha256, heads)
        };
        assert_eq!(facts(given), facts(&real));
    }
    for (place, mask) in changes(file).take(EXPORT_CHANGES) {
        let mut bytes = file.as_bytes().to_vec();
        bytes[place] ^= mask;
        let report = verify_export(&*bytes, tenant, Some(&real), &VerifyOptions::default());
        assert!(!report.expect("memory can be read").is_clean(), "byte {place} was changed");
    }
}

/// Places in a text and bits to turn there, the same for the same text.
fn changes(text: &str) -> impl Iterator<Item = (usize, u8)> {
    let (digest, length) = (Digest::of(text), text.len());
    let draws: Vec<[u8; 4]> =
        digest.as_bytes().chunks_exact(4).map(|draw| [draw[0], draw[1], draw[2], draw[3]]).collect();
    let draws = draws.into_iter().take(if length == 0 { 0 } else { CHANGES });
    draws.map(move |draw| (u32::from_be_bytes(draw) as usize % length, 1 << (draw[3] % 8)))
}

/// The same entries, each stream chained from its start; what their tenant and place was is forgotten.
fn chained(entries: &[Entry], tenant: &TenantId) -> String {
    let mut chains: BTreeMap<Stream, Chain> = BTreeMap::new();
    for entry in entries {
        let chain =
            chains.entry(entry.stream).or_insert_with(|| Chain::new(tenant, entry.stream, Head::EMPTY));
        chain.push(&entry.actor, entry.at, &entry.event).expect("an event serialises");
    }
    let finished =
        chains.into_iter().map(|(stream, chain)| (stream, chain.finish().expect("events are text").0));
    let mut streams: BTreeMap<Stream, Vec<String>> =
        finished.map(|(stream, lines)| (stream, lines.lines().rev().map(str::to_owned).collect())).collect();
    let lines = entries.iter().filter_map(|entry| streams.get_mut(&entry.stream)?.pop());
    lines.map(|line| line + "\n").collect()
}

/// An export taken into a store, and exported from there.
fn copied(file: &str, tenant: &TenantId) -> (String, Manifest) {
    let mut streams: BTreeMap<Stream, String> = BTreeMap::new();
    for line in file.lines() {
        let entry = Entry::read(line).expect("a clean line is an entry");
        streams.entry(entry.stream).or_default().extend([line, "\n"]);
    }
    let store = MemoryStore::new();
    let appends = streams.into_iter().map(|(stream, lines)| {
        let (_, _, head) =
            read_chain(Head::EMPTY, &lines).last().expect("a stream has entries").expect("it is clean");
        let row = matches!(stream, Stream::Run(_)).then(|| {
            let state = RunState::fold([&*lines], unshared_plan).expect("a clean run folds");
            state.expect("it has entries").row()
        });
        Append { tenant: tenant.clone(), stream, expected: Head::EMPTY, lines: lines.into(), head, row }
    });
    for answer in now(store.append(&appends.collect::<Vec<_>>())).expect("memory can be written") {
        answer.expect("a new stream has no rival");
    }
    let mut copy = Vec::new();
    let manifest = now(orch::proof::export(&store, tenant, None, Timestamp::EPOCH, &mut copy));
    (String::from_utf8(copy).expect("entries are text"), manifest.expect("memory can be read"))
}

/// The answer of what waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("memory waits for nothing"),
    }
}

/// A checkpoint is refused, or it reads back from what it is written as. One that is signed by the key of the corpus
/// says so from then on, and of no change to it can that be said.
pub fn checkpoint(text: &str) {
    let Ok(checkpoint) = Checkpoint::from_json(text) else { return };
    let json = checkpoint.to_json();
    let again = Checkpoint::from_json(&json).expect("a checkpoint reads back");
    assert_eq!(again, checkpoint);
    assert_eq!(again.to_json(), json);
    let own = SigningKey::from_hex(&"42".repeat(32)).expect("32 bytes are a key").public();
    let signed = checkpoint.verify(Some(&own)).is_ok();
    assert_eq!(again.verify(Some(&own)).is_ok(), signed);
    assert!(!signed || checkpoint.verify(None).is_ok(), "it names the key that it is signed with");
    assert!(checkpoint.heads().count() > 0, "it names itself");
    for (place, mask) in changes(&json).filter(|_| signed) {
        let mut bytes = json.clone().into_bytes();
        bytes[place] ^= mask;
        let Ok(altered) = String::from_utf8(bytes) else { continue };
        let read = Checkpoint::from_json(&altered).and_then(|read| read.verify(Some(&own)));
        assert!(read.is_err(), "byte {place} was changed");
    }
}
