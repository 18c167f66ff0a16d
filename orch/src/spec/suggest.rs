//! "Did you mean …?"

/// Texts longer than this are not compared: nobody mistypes that much, and the cost is quadratic.
const LENGTH_MAX: usize = 64;

/// The candidate closest to `text`, if it is close enough to be a slip of the keyboard: one edit for each
/// three characters. The first of equally close ones wins.
pub(super) fn closest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if text.len() > LENGTH_MAX {
        return None;
    }
    let allowed = (text.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| {
            candidate.len().abs_diff(text.len()) <= allowed * 4 && candidate.len() <= LENGTH_MAX
        })
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The hint for a text that is unknown but close to a known one.
pub(super) fn did_you_mean<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    closest(text, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Edits that turn `a` into `b`: insertions, deletions, replacements and swaps of neighbours, ignoring case
/// (optimal string alignment distance; Boytsov, "Indexing methods for approximate dictionary searching", 2011).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let swapped: usize = before[j - 2];
                best = best.min(swapped + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slip_of_the_keyboard_finds_its_word_and_another_word_does_not() {
        let fields = ["needs", "with", "when", "timeout"];
        assert_eq!(closest("neesd", fields), Some("needs"));
        assert_eq!(closest("Timeuot", fields), Some("timeout"));
        assert_eq!(closest("wiht", fields), Some("with"));
        assert_eq!(closest("retry", fields), None);
        assert_eq!(closest("", fields), None);
        assert_eq!(closest(&"x".repeat(10_000), fields), None);
    }

    proptest! {
        #[test]
        fn the_distance_is_symmetric_and_zero_only_for_the_same_word(a in "[a-d]{0,6}", b in "[a-d]{0,6}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &b) <= a.len().max(b.len()));
        }
    }
}
