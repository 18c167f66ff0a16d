//! A first look at the source, before the parser: words, strings and brackets.
//!
//! It bounds the depth of what the parser, and everything after it, will recurse over; it keeps bytes
//! away from the parser that the parser cannot handle; and it finds where an expression in a template ends.

use super::CompileError;

/// The deepest nesting of brackets.
pub(super) const NESTING_MAX: usize = 32;

/// The most operators, selections and calls on one path through an expression.
///
/// `&&` and `||` do not count: the parser balances their chains.
pub(super) const CHAIN_MAX: usize = 128;

/// What a [`Token`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An identifier, a keyword or (a part of) a number.
    Word,
    /// A string literal with its quotes and prefix.
    Text,
    /// One of `( [ {`.
    Open,
    /// One of `) ] }`.
    Close,
    /// Anything else.
    Sign,
}

/// A piece of the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'s> {
    pub(super) kind: Kind,
    pub(super) text: &'s str,
    /// Bytes before it.
    pub(super) offset: usize,
}

/// Splits `source` into tokens.
pub(super) struct Scanner<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Scanner<'s> {
    pub(super) fn new(source: &'s str, at: usize) -> Self {
        Self { source, at }
    }

    fn token(&mut self, kind: Kind, length: usize) -> Token<'s> {
        let offset = self.at;
        self.at += length;
        Token { kind, text: &self.source[offset..self.at], offset }
    }

    /// The next token, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Token<'s>>, CompileError> {
        let bytes = self.source.as_bytes();
        while self.at < bytes.len() && matches!(bytes[self.at], b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
        let rest = &bytes[self.at..];
        let Some(&first) = rest.first() else { return Ok(None) };
        let word = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        let quoted = rest.get(word).is_some_and(|byte| matches!(byte, b'"' | b'\''));
        if quoted {
            // Where a string begins must never be in doubt between this scan and the parser.
            if !is_string_prefix(&rest[..word]) {
                return Err(CompileError::new(
                    "a string needs an operator or a space before it",
                    self.at + word,
                ));
            }
            let length = self.string_length(word)?;
            return Ok(Some(self.token(Kind::Text, length)));
        }
        let (kind, length) = match first {
            _ if word > 0 => (Kind::Word, word),
            b'(' | b'[' | b'{' => (Kind::Open, 1),
            b')' | b']' | b'}' => (Kind::Close, 1),
            b'&' | b'|' | b'=' if rest.get(1) == Some(&first) => (Kind::Sign, 2),
            b'!' | b'<' | b'>' if rest.get(1) == Some(&b'=') => (Kind::Sign, 2),
            b'/' if rest.get(1) == Some(&b'/') => {
                return Err(CompileError::new("comments are not allowed in an expression", self.at));
            }
            b'.' | b',' | b'?' | b':' | b'!' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'%' => {
                (Kind::Sign, 1)
            }
            _ => return Err(self.unexpected()),
        };
        Ok(Some(self.token(kind, length)))
    }

    fn unexpected(&self) -> CompileError {
        let bad = self.source[self.at..].chars().next().unwrap_or_default();
        let hint = match bad {
            '&' => "; `and` is written `&&`",
            '|' => "; `or` is written `||`",
            '=' => "; equality is written `==`",
            _ => "",
        };
        CompileError::new(format!("unexpected character `{}`{hint}", bad.escape_default()), self.at)
    }

    /// The length of the string literal whose quotes begin after `prefix` bytes.
    fn string_length(&self, prefix: usize) -> Result<usize, CompileError> {
        let rest = &self.source.as_bytes()[self.at..];
        let raw = rest[..prefix].iter().any(|byte| byte.eq_ignore_ascii_case(&b'r'));
        let quote = rest[prefix];
        let width = if rest[prefix..].starts_with(&[quote; 3]) { 3 } else { 1 };
        let closing = &[quote; 3][..width];
        let mut at = prefix + width;
        while at < rest.len() {
            if rest[at..].starts_with(closing) {
                return Ok(at + width);
            }
            at += if rest[at] == b'\\' && !raw { 2 } else { 1 };
        }
        Err(CompileError::new("string literal is not closed", self.at))
    }
}

fn is_string_prefix(prefix: &[u8]) -> bool {
    matches!(prefix.to_ascii_lowercase().as_slice(), b"" | b"r" | b"b" | b"br" | b"rb")
}

/// One open bracket, or the whole expression.
#[derive(Default)]
struct Level {
    /// Operators since the last `,`, `&&` or `||`.
    chain: usize,
    /// Ternaries since the last `,`.
    ternaries: usize,
}

/// All tokens of an expression, or where and why it is refused.
pub(super) fn tokens(source: &str) -> Result<Vec<Token<'_>>, CompileError> {
    let mut scanner = Scanner::new(source, 0);
    let mut tokens: Vec<Token<'_>> = Vec::new();
    let mut levels = vec![Level::default()];
    let mut depth = 0;
    while let Some(token) = scanner.next()? {
        let outermost = levels.len() == 1;
        let level = levels.last_mut().expect("the first level is never popped");
        match (token.kind, token.text) {
            (Kind::Open, _) => {
                level.chain += 1;
                depth += 1;
                levels.push(Level::default());
                if levels.len() > NESTING_MAX + 1 {
                    let message = format!("brackets are nested deeper than {NESTING_MAX} levels");
                    return Err(CompileError::new(message, token.offset));
                }
            }
            (Kind::Close, text) => {
                if outermost {
                    return Err(CompileError::new(format!("`{text}` closes nothing"), token.offset));
                }
                depth -= level.chain + level.ternaries;
                levels.pop();
            }
            (Kind::Sign, ",") => {
                depth -= level.chain + level.ternaries;
                *level = Level::default();
            }
            (Kind::Sign, "&&" | "||") => {
                depth -= level.chain;
                level.chain = 0;
            }
            (Kind::Sign, "?") => {
                level.ternaries += 1;
                depth += 1;
            }
            (Kind::Sign, ":") => {}
            (Kind::Sign, _) => {
                level.chain += 1;
                depth += 1;
            }
            (Kind::Word, "in") => {
                level.chain += 1;
                depth += 1;
            }
            (Kind::Word | Kind::Text, _) => {}
        }
        if depth > CHAIN_MAX {
            let message = format!("more than {CHAIN_MAX} operators in one chain; split the expression");
            return Err(CompileError::new(message, token.offset));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_every_kind_are_one_token() {
        for text in [r#"'a}}b'"#, r#""\"}}""#, r#"'''a'b'''"#, r#"r'\'"#, r#"b"x""#, "'é'", r#"'\\'"#] {
            let tokens = tokens(text).unwrap();
            assert_eq!((tokens.len(), tokens[0].kind, tokens[0].text), (1, Kind::Text, text));
        }
        assert_eq!(tokens("'open").unwrap_err().offset, 0);
        assert_eq!(tokens(r"1 + 'open\'").unwrap_err().offset, 4);
    }

    #[test]
    fn a_string_cannot_hide_from_the_parser_behind_a_doubtful_prefix() {
        for text in [r"rr'' '(('", r"1br'' (( '", "bb'x'", "0x'a'", "x'a'"] {
            assert!(tokens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn chains_are_counted_per_element_and_balanced_operators_not_at_all() {
        assert!(tokens(&vec!["1"; 1000].join(",")).is_ok());
        assert!(tokens(&vec!["a.b == 1"; 300].join(" || ")).is_ok());
        assert!(tokens(&vec!["1"; 129].join("+")).is_ok());
        assert!(tokens(&vec!["1"; 130].join("+")).is_err());
        assert!(tokens(&"a||b?c:".repeat(129)).is_err());
        assert!(tokens(&"a && b ? c : ".repeat(129)).is_err());
    }
}
