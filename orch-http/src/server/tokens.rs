//! The file of hashed tokens.

use std::path::Path;

use orch::{Digest, Error, Result, Secret, TenantId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::{Problem, problems};
use crate::api::schema;
use crate::auth::{ApiToken, Scope, Scopes, Tenants, draw_token};

/// The file.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// The tokens.
    #[serde(default)]
    token: Vec<Token>,
}

/// A token.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Token {
    /// Who holds it.
    #[schemars(length(min = 1, max = 256))]
    subject: String,
    /// SHA-256 of the token.
    #[schemars(with = "schema::Hash")]
    sha256: Digest,
    /// The tenants it speaks for; `*` for all.
    #[schemars(length(min = 1))]
    tenants: Vec<String>,
    /// What it allows.
    #[schemars(length(min = 1))]
    scopes: Vec<String>,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<schema::Time>")]
    expires: Option<Timestamp>,
}

/// Reads the file.
///
/// # Errors
/// `Invalid` with everything that is wrong with it.
pub(super) fn read(path: &Path) -> Result<Vec<ApiToken>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|cause| {
        Error::invalid("the tokens file cannot be read").with("file", &name).caused_by(cause)
    })?;
    let all = |problems: Vec<Problem>| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Error::invalid("the tokens file has problems").with("problems", lines.join("; "))
    };
    let file: File = toml::from_str(&text).map_err(|error| match problems::<File>(&name, &text) {
        none if none.is_empty() => all(vec![Problem::of_toml(&name, &text, &error)]),
        some => all(some),
    })?;
    let (mut tokens, mut wrong) = (Vec::new(), problems::<File>(&name, &text));
    for token in file.token {
        match token.read() {
            Ok(token) => tokens.push(token),
            Err((subject, error)) => {
                wrong.push(Problem {
                    place: format!("{name}, {subject}"),
                    message: error.to_string(),
                    hint: None,
                });
            }
        }
    }
    if wrong.is_empty() { Ok(tokens) } else { Err(all(wrong)) }
}

impl Token {
    fn read(self) -> Result<ApiToken, (String, Error)> {
        let named = |error| (self.subject.clone(), error);
        let tenants = tenants(&self.tenants).map_err(named)?;
        let scopes: Result<Scopes> = self.scopes.iter().map(|word| word.parse::<Scope>()).collect();
        let scopes = scopes.map_err(named)?;
        Ok(ApiToken { subject: self.subject, hash: self.sha256, tenants, scopes, expires: self.expires })
    }
}

fn tenants(names: &[String]) -> Result<Tenants> {
    if names.iter().any(|name| name == "*") {
        return Ok(Tenants::Every);
    }
    names.iter().map(TenantId::new).collect::<Result<_>>().map(Tenants::Some)
}

/// Draws a token. Answers it, and what is to be added to the tokens file.
///
/// # Errors
/// `Invalid` for what is no tenant.
pub fn new_token(subject: &str, tenant_names: &[String], scopes: &[Scope]) -> Result<(Secret, String)> {
    tenants(tenant_names)?;
    let (token, hash) = draw_token();
    let line = Token {
        subject: subject.to_owned(),
        sha256: hash,
        tenants: tenant_names.to_vec(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        expires: None,
    };
    let text = toml::to_string(&File { token: vec![line] });
    let text = text.map_err(|cause| Error::invalid("the token cannot be written down").caused_by(cause))?;
    Ok((token, text))
}
