//! The image against news that come in any order.

use std::time::Duration;

use orch::WorkerId;

use super::*;
use crate::queue::message::tests::item;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000 + micros)
}

fn claim(limit: usize, now: i64) -> Claim {
    let (worker, lease) = (WorkerId::new("w"), Duration::from_micros(10));
    Claim { worker, queues: None, tenants: None, limit, lease, now: at(now) }
}

fn waiting() -> Stored {
    Stored { item: Arc::new(item(1)), count: 0, lease: None }
}

fn leased(of: u64, until: i64) -> Stored {
    Stored { count: 1, lease: Some(Lease { of, until: at(until) }), ..waiting() }
}

/// An image, the names, and the subject of the one item.
fn fixture() -> (Image, Names, String) {
    let names = Names::new("n");
    let subject = names.item(&item(1));
    (Image::new(), names, subject)
}

fn tell(image: &Image, subject: &str, sequence: u64, stored: Option<Stored>) {
    image.told([(subject.to_owned(), sequence, stored)]);
}

fn ready(image: &Image) -> u64 {
    image.depth(&item(1).tenant, at(0)).iter().map(|depth| depth.ready).sum()
}

#[test]
fn what_was_settled_here_does_not_come_back_with_older_news() {
    let (image, _, subject) = fixture();
    image.wrote(subject.clone(), 1, Some(waiting()));
    image.wrote(subject.clone(), 2, Some(leased(1, 10)));
    image.wrote(subject.clone(), 3, None);
    for (sequence, news) in [(1, Some(waiting())), (2, Some(leased(1, 10))), (3, None)] {
        tell(&image, &subject, sequence, news);
        assert!(!image.has(&subject) && image.depth(&item(1).tenant, at(0)).is_empty(), "after {sequence}");
    }
    assert!(image.state().entries.is_empty(), "its end is forgotten when the stream has told of it");
    assert_eq!(image.bytes(), 0);
    tell(&image, &subject, 4, Some(waiting()));
    assert_eq!(ready(&image), 1, "it may come again");
}

#[test]
fn what_was_written_here_is_old_news_when_the_stream_has_told_of_more() {
    let (image, _, subject) = fixture();
    tell(&image, &subject, 1, Some(waiting()));
    tell(&image, &subject, 5, None);
    image.wrote(subject.clone(), 3, Some(leased(1, 10)));
    assert!(!image.has(&subject), "somebody settled it since");
}

#[test]
fn what_could_not_be_leased_waits_again_unless_the_stream_says_otherwise() {
    let (image, names, subject) = fixture();
    tell(&image, &subject, 1, Some(waiting()));
    let pick = image.pick(&names, &claim(5, 0)).picks.remove(0);
    assert_eq!((pick.of, pick.stored.count), (1, 1));
    assert!(image.pick(&names, &claim(5, 0)).picks.is_empty(), "it is being leased");
    image.unpick(&pick);
    let again = image.pick(&names, &claim(5, 0)).picks.remove(0);
    assert_eq!((again.of, again.stored.count), (1, 1));
    tell(&image, &subject, 2, Some(leased(1, 10)));
    image.unpick(&again);
    image.unpick(&pick);
    assert_eq!(ready(&image), 0, "it was written after all");
}

#[test]
fn an_ended_lease_is_told_once_and_not_of_what_is_leased_again() {
    let (image, names, subject) = fixture();
    tell(&image, &subject, 2, Some(leased(1, 10)));
    assert!(image.pick(&names, &claim(0, 9)).lapses.is_empty(), "it lasts");
    let (put, stored) = image.pick(&names, &claim(0, 10)).lapses.remove(0);
    assert_eq!((put.subject.as_str(), put.expected, stored.count, stored.lease), (&*subject, 2, 1, None));
    assert!(image.pick(&names, &claim(0, 11)).lapses.is_empty());
    tell(&image, &subject, 3, Some(leased(1, 20)));
    let picked = image.pick(&names, &claim(1, 20));
    assert_eq!((picked.lapses.len(), picked.picks.len()), (0, 1));
}

#[test]
fn a_delivery_lasts_until_something_newer_or_its_end() {
    let (image, names, subject) = fixture();
    let mine = token(&names, &subject, 4);
    let look = |now| match image.look(&names, &mine, at(now)) {
        Delivered::Lasts { sequence, .. } => format!("lasts {sequence}"),
        Delivered::Ended => "ended".to_owned(),
        Delivered::Unknown => "unknown".to_owned(),
    };
    assert_eq!(look(0), "unknown");
    tell(&image, &subject, 4, Some(waiting()));
    assert_eq!(look(0), "unknown", "it may have been leased since");
    tell(&image, &subject, 5, Some(leased(4, 10)));
    assert_eq!(
        (look(9), look(10)),
        ("lasts 5".to_owned(), "unknown".to_owned()),
        "it may have been prolonged since"
    );
    tell(&image, &subject, 6, Some(leased(4, 20)));
    assert_eq!(look(10), "lasts 6");
    image.pick(&names, &claim(0, 20));
    assert_eq!(look(10), "unknown", "it was found ended");
    tell(&image, &subject, 7, Some(leased(6, 30)));
    assert_eq!(look(10), "ended", "it is another one");
    for foreign in ["", "@", "x@4", "acme=2Eeu.x@y"] {
        let found = image.look(&names, &DeliveryToken::new(foreign), at(0));
        assert!(!matches!(found, Delivered::Lasts { .. }), "{foreign}");
    }
}

#[test]
fn a_full_queue_is_told_before_anything_is_sent() {
    let (image, _, subject) = fixture();
    let one = item(1);
    let fits = |image: &Image| image.check_room(std::iter::once((subject.as_str(), &one)));
    let room = size(&subject, &one);
    image.set_room(room);
    fits(&image).unwrap();
    tell(&image, &subject, 1, Some(waiting()));
    assert_eq!(fits(&image).unwrap_err().kind(), orch::ErrorKind::LimitExceeded);
    tell(&image, &subject, 2, None);
    fits(&image).unwrap();
}
