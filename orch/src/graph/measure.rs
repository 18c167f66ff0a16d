//! How wide a text will be, without a font: system fonts differ, so this errs on the wide side.

use std::borrow::Cow;

/// A size of text in pixels, and how wide it runs in percent of a regular weight. The style sheet has the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Font {
    size: i64,
    run: i64,
}

pub(super) const HEADING: Font = Font { size: 17, run: 114 };
pub(super) const LABEL: Font = Font { size: 14, run: 114 };
pub(super) const SMALL_LABEL: Font = Font { size: 12, run: 114 };
pub(super) const DETAIL: Font = Font { size: 12, run: 100 };

impl Font {
    /// The width of a character in 1/10000 of a pixel.
    fn advance(self, c: char) -> i64 {
        advance(c) * self.size * self.run
    }
}

/// Estimates the width of `text` in pixels.
pub(super) fn width(text: &str, font: Font) -> i64 {
    (text.chars().map(|c| font.advance(c)).sum::<i64>() + 9_999) / 10_000
}

/// Cuts `text` so that it fits into `room` pixels, with an ellipsis where something was cut.
pub(super) fn fit(text: &str, font: Font, room: i64) -> Cow<'_, str> {
    if width(text, font) <= room {
        return Cow::Borrowed(text);
    }
    let room = room * 10_000 - font.advance('…');
    let mut used = 0;
    let end = text.char_indices().find_map(|(at, c)| {
        used += font.advance(c);
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
        assert_eq!(fit("build", LABEL, 60), "build");
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_to_fit_with_an_ellipsis() {
        for text in
            ["a-very-long-step-name-that-goes-on", "名前がとても長い手順", "ｗide and spaced out words"]
        {
            let cut = fit(text, LABEL, 90);
            assert!(cut.ends_with('…') && width(&cut, LABEL) <= 90, "{cut}");
            assert!(cut.chars().count() > 4, "{cut}");
        }
    }
}
