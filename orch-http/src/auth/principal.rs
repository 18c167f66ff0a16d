//! Who a token speaks for.

use std::collections::{BTreeMap, BTreeSet};

use orch::{TenantId, Timestamp};

use super::scope::{Scope, Scopes};

/// The tenants that a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// All there are.
    Every,
    /// These.
    Some(BTreeSet<TenantId>),
}

impl Tenants {
    /// Whether this tenant is among them.
    #[must_use]
    pub fn holds(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Every => true,
            Self::Some(tenants) => tenants.contains(tenant),
        }
    }
}

/// Why elevated actions are done, as the token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elevated {
    /// The reason.
    pub reason: Option<String>,
    /// The ticket.
    pub ticket: Option<String>,
}

/// Whoever presented a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its name, for the record.
    pub subject: String,
    /// The tenants it may name.
    pub tenants: Tenants,
    /// What it may do.
    pub scopes: Scopes,
    /// Reasons and tickets of the token, by the name of the elevation (`operator`, `quota`, `backfill`).
    pub elevated: BTreeMap<&'static str, Elevated>,
    /// When the token ends.
    pub expires: Option<Timestamp>,
    /// The thumbprint of the key that the token is bound to, if it is to one: each request proves possession of it.
    pub bound_to: Option<String>,
}

impl Principal {
    /// Whoever works at this machine: everything, for every tenant. Nobody asks a person at a terminal for a ticket.
    #[must_use]
    pub fn local() -> Self {
        let said = Elevated { reason: Some("local user".to_owned()), ticket: Some("none".to_owned()) };
        let elevations = Scope::ALL.iter().filter_map(|scope| scope.elevation());
        Self {
            subject: "local".to_owned(),
            tenants: Tenants::Every,
            scopes: Scopes::all(),
            elevated: elevations.map(|elevation| (elevation.name, said.clone())).collect(),
            expires: None,
            bound_to: None,
        }
    }
}
