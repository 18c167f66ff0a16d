//! What is wrong with a document, where, and what to do about it.

use std::fmt;

use serde::Serialize;

use super::source::{LineIndex, Offset};
use crate::error::Error;

/// The most problems one report lists; a count of the rest follows them.
pub const PROBLEMS_MAX: usize = 100;

/// Bytes of a path that a report keeps: names can be as long as the document, and there are many problems.
const PATH_BYTES_MAX: usize = 1 << 10;

/// One problem of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// What kind of problem it is, such as `unknown-field`; stable between releases.
    pub code: &'static str,
    /// What is wrong, for people.
    pub message: String,
    /// Where it is within the document's data, as a JSON pointer (RFC 6901); beyond 1024 bytes it is cut and ends
    /// with `…`.
    pub path: String,
    /// The line in the text, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// All problems of a document, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostics {
    /// The name of the document, usually that of its file.
    pub file: String,
    /// The problems, ordered by line, column and code; never empty.
    pub problems: Vec<Diagnostic>,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let Diagnostic { code, message, line, column, .. } = problem;
            write!(f, "{}:{line}:{column}: error[{code}]: {message}", self.file)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostics> for Error {
    fn from(diagnostics: Diagnostics) -> Self {
        let error = Self::invalid("the document has problems")
            .with("file", &diagnostics.file)
            .with("count", diagnostics.problems.len());
        match diagnostics.problems.first() {
            Some(first) => error.with("first", format!("{}:{}: {}", first.line, first.column, first.message)),
            None => error,
        }
        .caused_by(diagnostics)
    }
}

/// A problem before its place is turned into line and column.
#[derive(Debug)]
pub(super) struct Problem {
    code: &'static str,
    at: Offset,
    path: String,
    message: String,
    hint: Option<String>,
    first: Option<Offset>,
}

impl Problem {
    /// A problem of the kind `code` at a place in the text and in the data.
    pub(super) fn new(
        code: &'static str,
        at: Offset,
        path: impl AsRef<str>,
        message: impl Into<String>,
    ) -> Self {
        Self { code, at, path: bounded(path.as_ref()), message: message.into(), hint: None, first: None }
    }

    /// Says what to do about it.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says where in the data it is, once that is known.
    pub(super) fn within(self, path: &str) -> Self {
        Self { path: bounded(path), ..self }
    }

    /// Names the place that came first when something is there twice.
    pub(super) fn first_at(mut self, at: Offset) -> Self {
        self.first = Some(at);
        self
    }
}

/// A path as a report keeps it.
pub(super) fn bounded(path: &str) -> String {
    if path.len() <= PATH_BYTES_MAX {
        return path.to_owned();
    }
    format!("{}…", &path[..path.floor_char_boundary(PATH_BYTES_MAX)])
}

/// Gathers problems while a document is read and checked.
#[derive(Debug, Default)]
pub(super) struct Problems {
    kept: Vec<Problem>,
    dropped: usize,
}

impl Problems {
    /// Keeps a problem, or counts it when the report is full.
    pub(super) fn push(&mut self, problem: Problem) {
        if self.kept.len() < PROBLEMS_MAX {
            self.kept.push(problem);
        } else {
            self.dropped += 1;
        }
    }

    /// Whether further problems are only counted: then a costly hint is not worth finding.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= PROBLEMS_MAX
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The report: places as lines and columns, in the order of the text.
    pub(super) fn into_diagnostics(self, file: &str, text: &str) -> Diagnostics {
        let index = LineIndex::new(text);
        let place = |problem: Problem| {
            let (line, column) = index.position(problem.at);
            let mut message = problem.message;
            if let Some(first) = problem.first {
                let (line, column) = index.position(first);
                message.push_str(&format!(" (first at line {line}, column {column})"));
            }
            Diagnostic { code: problem.code, message, path: problem.path, line, column, hint: problem.hint }
        };
        let mut problems: Vec<Diagnostic> = self.kept.into_iter().map(place).collect();
        problems.sort_by(|a, b| {
            (a.line, a.column, a.code, &a.path, &a.message)
                .cmp(&(b.line, b.column, b.code, &b.path, &b.message))
        });
        if self.dropped > 0 {
            let (line, column) = problems.last().map_or((1, 1), |last| (last.line, last.column));
            problems.push(Diagnostic {
                code: "too-many-problems",
                message: format!("{} further problems are not listed", self.dropped),
                path: String::new(),
                line,
                column,
                hint: Some("fix those above first".to_owned()),
            });
        }
        Diagnostics { file: file.to_owned(), problems }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn sample() -> Diagnostics {
        let mut problems = Problems::default();
        problems.push(Problem::new("duplicate-id", 5, "/b", "twice").first_at(0).hint("rename one"));
        problems.push(Problem::new("cycle", 0, "/a", "round and round"));
        problems.into_diagnostics("x.yaml", "é: 1\nb: 2\n")
    }

    #[test]
    fn problems_are_listed_in_the_order_of_the_text_with_hints_below_them() {
        assert_eq!(
            sample().to_string(),
            "x.yaml:1:1: error[cycle]: round and round\n\
             x.yaml:1:5: error[duplicate-id]: twice (first at line 1, column 1)\n  hint: rename one"
        );
    }

    #[test]
    fn a_report_becomes_an_invalid_error_that_keeps_it_as_the_source() {
        let error = Error::from(sample());
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("first=`1:1: round and round`"), "{error}");
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.downcast_ref::<Diagnostics>(), Some(&sample()));
    }

    #[test]
    fn beyond_the_most_problems_only_their_number_is_told() {
        let mut problems = Problems::default();
        for _ in 0..PROBLEMS_MAX + 7 {
            problems.push(Problem::new("cycle", 0, "", "again"));
        }
        let report = problems.into_diagnostics("x", "");
        assert_eq!(report.problems.len(), PROBLEMS_MAX + 1);
        assert!(report.problems[PROBLEMS_MAX].message.starts_with("7 further"));
    }
}
