//! What the fuzz target of requests asserts, over its committed corpus.

#[path = "../../fuzz/src/request.rs"]
mod request;

#[test]
fn every_request_of_the_corpus_is_answered_in_the_services_own_words() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/request");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        let text = std::fs::read(&file).unwrap();
        // Told when it panics.
        println!("{}", file.display());
        request::request(&text);
        count += 1;
    }
    assert!(count >= 30, "{count} requests");
}
