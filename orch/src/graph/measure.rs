//! How wide a text will be, without a font: system fonts differ, so this errs on the wide side.

use std::borrow::Cow;

/// Estimates the width of `text` in pixels at a font size of `size` pixels.
pub(super) fn width(text: &str, size: i64) -> i64 {
    (text.chars().map(|c| advance(c) * size).sum::<i64>() + 99) / 100
}

/// Cuts `text` so that it fits into `room` pixels, with an ellipsis where something was cut.
pub(super) fn fit(text: &str, size: i64, room: i64) -> Cow<'_, str> {
    if width(text, size) <= room {
        return Cow::Borrowed(text);
    }
    let room = room * 100 - advance('…') * size;
    let mut used = 0;
    let end = text.char_indices().find_map(|(at, c)| {
        used += advance(c) * size;
        (used > room).then_some(at)
    });
    let kept = text[..end.unwrap_or(text.len())].trim_end();
    Cow::Owned(format!("{kept}…"))
}

/// The width of a character in hundredths of the font size.
fn advance(c: char) -> i64 {
    match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '|' | '!' | '\'' => 32,
        'f' | 'r' | 't' | 'I' | ' ' | '-' | '/' | '(' | ')' | '[' | ']' => 42,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '…' => 95,
        'A'..='Z' | '&' | '+' | '=' | '<' | '>' | '~' | '#' => 74,
        // Combining marks take no room of their own.
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' => 0,
        // From Hangul on, most scripts and all emoji are a full em wide.
        '\u{1100}'.. => 100,
        _ => 61,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_fits_is_left_alone() {
        assert_eq!(fit("build", 14, 60), "build");
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_to_fit_with_an_ellipsis() {
        for text in
            ["a-very-long-step-name-that-goes-on", "名前がとても長い手順", "ｗide and spaced out words"]
        {
            let cut = fit(text, 14, 90);
            assert!(cut.ends_with('…') && width(&cut, 14) <= 90, "{cut}");
            assert!(cut.chars().count() > 4, "{cut}");
        }
    }
}
