//! Where the expressions of a string stand: `${{ … }}`.

use std::ops::Range;

const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// `$${{` stands for a literal `${{` and begins none. The expressions of a text, without their `${{` and `}}`, as ranges of bytes. Braces and quotes within an
/// expression are minded, so that `${{ {"a": {"b": "}}"}} }}` is one.
///
/// # Errors
/// The offset of a `${{` that is never closed.
pub(super) fn expressions(text: &str) -> Result<Vec<Range<usize>>, usize> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(open) = text[from..].find(OPEN).map(|at| from + at) {
        let start = open + OPEN.len();
        if text[from..open].ends_with('$') {
            from = start;
            continue;
        }
        let end = start + length(&text[start..]).ok_or(open)?;
        found.push(start..end);
        from = end + CLOSE.len();
    }
    Ok(found)
}

/// The expression of a field that is one as a whole, written with or without `${{ }}`.
pub(super) fn whole(text: &str) -> Range<usize> {
    let trimmed = text.trim();
    let lead = text.len() - text.trim_start().len();
    match expressions(trimmed).as_deref() {
        Ok([only]) if only.start == OPEN.len() && only.end + CLOSE.len() == trimmed.len() => {
            lead + only.start..lead + only.end
        }
        _ => 0..text.len(),
    }
}

/// The length of the expression that `text` begins with, up to the `}}` that closes it.
fn length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut braces) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' | b'\'' => at += literal(&bytes[at..], at > 0 && matches!(bytes[at - 1], b'r' | b'R'))?,
            b'{' => {
                braces += 1;
                at += 1;
            }
            b'}' if braces > 0 => {
                braces -= 1;
                at += 1;
            }
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => at += 1,
        }
    }
    None
}

/// The length of the string literal that `bytes` begins with; a raw one has no escapes.
fn literal(bytes: &[u8], raw: bool) -> Option<usize> {
    let quote = [bytes[0]; 3];
    let width = if bytes.starts_with(&quote) { 3 } else { 1 };
    let mut at = width;
    while at < bytes.len() {
        if bytes[at..].starts_with(&quote[..width]) {
            return Some(at + width);
        }
        at += if bytes[at] == b'\\' && !raw { 2 } else { 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sources(text: &str) -> Vec<&str> {
        expressions(text).unwrap().into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn quotes_and_braces_within_an_expression_do_not_close_it() {
        assert_eq!(sources("none, $ { } }} ${ {"), Vec::<&str>::new());
        assert_eq!(sources("a-${{ x }}-${{y}}"), [" x ", "y"]);
        assert_eq!(sources(r#"${{ {"a": {"b": "}}"}} }}"#), [r#" {"a": {"b": "}}"}} "#]);
        assert_eq!(sources(r#"${{ '\'}}' }}"#), [r#" '\'}}' "#]);
        assert_eq!(sources(r"${{ r'\' }} '"), [r" r'\' "]);
        assert_eq!(sources(r#"${{ """ " }} """ }}"#), [r#" """ " }} """ "#]);
        assert_eq!(sources("$${{ a ${{ b }}"), [" b "]);
        assert_eq!(expressions("ab ${{ x }"), Err(3));
        assert_eq!(expressions("${{ ' }}"), Err(0));
    }

    #[test]
    fn a_field_that_is_an_expression_may_wear_its_delimiters() {
        for (text, source) in [
            ("a > 1", "a > 1"),
            ("  ${{ a }} ", " a "),
            ("${{ a }} && ${{ b }}", "${{ a }} && ${{ b }}"),
            ("${{ a", "${{ a"),
        ] {
            assert_eq!(&text[whole(text)], source);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_scan_panic(text in "[${}'\"\\\\rRé ]{0,40}") {
            let _ = expressions(&text);
            prop_assert!(text.get(whole(&text)).is_some());
        }
    }
}
