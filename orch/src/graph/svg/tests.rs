use std::collections::BTreeSet;

use super::super::layout;
use super::*;

fn node(id: &str, status: Option<StepStatus>) -> Node {
    Node { id: id.into(), label: id.into(), detail: "fn/echo".into(), status }
}

fn draw(title: &str, nodes: Vec<Node>) -> String {
    let edges = (1..nodes.len()).map(|at| (at - 1, at)).collect();
    let graph = Graph { title: title.into(), nodes, edges };
    to_svg(&graph, &layout(&graph))
}

/// Reads tags one by one: every one is closed in turn, and no text holds a bare `<`, `>` or `&`.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "bare > in {:?}", &rest[..start]);
        for (at, _) in rest[..start].match_indices('&') {
            let entity =
                ["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|entity| rest[at..].starts_with(entity));
            assert!(entity, "bare & in {:?}", &rest[..start]);
        }
        let end = start + rest[start..].find('>').expect("the tag ends");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<') && tag.matches('"').count().is_multiple_of(2), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a name"));
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
}

#[test]
fn hostile_text_stays_text() {
    let evil = "</text><script>alert('1')</script> & \"x\" \u{0}\u{1b}[31m\u{ffff}";
    let svg = draw(evil, vec![node(evil, Some(StepStatus::Failed)), node("ok", None)]);
    assert_well_formed(&svg);
    assert!(!svg.contains("<script") && !svg.contains(['\u{0}', '\u{1b}', '\u{ffff}']));
    assert!(svg.contains("&lt;script&gt;alert('1')&lt;/script&gt; &amp; &quot;x&quot;"));
}

#[test]
fn every_status_is_told_by_a_sign_and_a_word() {
    for status in StepStatus::ALL.iter().copied() {
        let svg = draw("t", vec![node("a", Some(status)), node("b", None)]);
        let word = status.as_str();
        assert_well_formed(&svg);
        assert!(svg.contains(&format!("<use href=\"#orch-{word}\"")), "{word}");
        assert!(svg.contains(&format!("<g id=\"orch-{word}\">")), "{word}");
        assert!(svg.contains(&format!(">{word}</text>")), "{word}");
        assert!(svg.contains(&format!(">1 {word}</text>")), "{word}");
        assert!(svg.contains(&format!("<title>a · fn/echo · {word}</title>")), "{word}");
        assert_eq!(
            STYLE.matches(&format!(".{word}{{color:")).count() + STYLE.matches(&format!(".{word},")).count(),
            2
        );
    }
    let signs: BTreeSet<&str> = StepStatus::ALL.iter().copied().map(sign).collect();
    assert_eq!(signs.len(), StepStatus::ALL.len());
    for class in
        signs.iter().flat_map(|sign| sign.split("class=\"").skip(1)).filter_map(|rest| rest.split('"').next())
    {
        assert!(STYLE.contains(&format!("\n.{class}{{")), "{class} is styled wherever it is used");
    }
}

#[test]
fn the_picture_has_a_name_and_a_description_and_refers_to_nothing_outside() {
    let svg =
        draw("Nightly", vec![node("a", Some(StepStatus::Running)), node("b", Some(StepStatus::Pending))]);
    assert!(svg.contains("role=\"img\"") && svg.contains("<title>Nightly</title>"));
    assert!(svg.contains(
        "<desc>A graph of steps, from left to right: 2 steps, 1 dependency, 2 columns. \
         Steps by status: 1 running, 1 pending.</desc>"
    ));
    assert_eq!(svg.matches("http").count(), 1, "the namespace only");
    assert!(!svg.contains("<image") && !svg.contains("@import") && !svg.contains("<script"));
    assert!(svg.matches("href=\"").count() == svg.matches("href=\"#orch-").count());
    assert!(svg.matches("url(").count() == svg.matches("url(#orch-tip)").count());
    assert!(svg.contains("prefers-color-scheme:dark"));
}

#[test]
fn a_long_label_is_cut_in_the_card_and_whole_in_the_tooltip() {
    let long = "a-very-long-step-name-".repeat(5);
    let svg = draw("t", vec![node(&long, None)]);
    assert!(svg.contains(&format!("<title>{long} · fn/echo</title>")));
    assert!(svg.contains("…</text>") && !svg.contains(&format!("{long}</text>")));
}

#[test]
fn a_large_graph_is_drawn_with_small_cards() {
    let nodes =
        (0..=layout::COMPACT_ABOVE).map(|at| node(&format!("s{at}"), Some(StepStatus::Queued))).collect();
    let svg = draw("large", nodes);
    assert_well_formed(&svg);
    assert_eq!(svg.matches("<g class=\"small queued\">").count(), layout::COMPACT_ABOVE + 1);
    assert!(!svg.contains("class=\"detail\""));
}

#[test]
fn an_empty_graph_is_an_empty_picture() {
    let svg = draw("nothing", Vec::new());
    assert_well_formed(&svg);
    assert!(svg.contains("0 steps, 0 dependencies, 0 columns"));
}
