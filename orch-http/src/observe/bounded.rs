//! Labels whose values are bounded in number.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orch::TenantId;
use prometheus_client::encoding::EncodeLabelSet;

/// Tenants that have labels of their own; the others share `_other`.
pub const TENANTS_MAX: usize = 200;

const OTHER: &str = "_other";

/// The tenants that have labels of their own: the first that were seen.
#[derive(Debug, Default)]
pub(super) struct Tenants(Mutex<BTreeMap<TenantId, Arc<str>>>);

impl Tenants {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TenantId, Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The label of a tenant.
    pub(super) fn label(&self, tenant: &TenantId) -> Arc<str> {
        let mut known = self.lock();
        match known.get(tenant) {
            Some(label) => Arc::clone(label),
            None if known.len() >= TENANTS_MAX => OTHER.into(),
            None => {
                let label: Arc<str> = tenant.as_str().into();
                known.insert(tenant.clone(), Arc::clone(&label));
                label
            }
        }
    }

    /// Those that have labels of their own.
    pub(super) fn all(&self) -> Vec<TenantId> {
        self.lock().keys().cloned().collect()
    }
}

macro_rules! labels {
    ($( $(#[doc = $doc:literal])+ $name:ident { $($field:ident: $type:ty),* } )*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
            pub(super) struct $name { $(pub(super) $field: $type),* }
        )*
    };
}

labels! {
    /// Runs, by tenant and how they ended.
    OfRun { tenant: Arc<str>, status: &'static str }
    /// Something of a tenant.
    OfTenant { tenant: Arc<str> }
    /// A queue of a tenant.
    OfQueue { tenant: Arc<str>, queue: Arc<str> }
    /// Something that ended in one of a few ways.
    OfOutcome { outcome: &'static str }
    /// A backend, by what it is for.
    OfSeam { seam: &'static str }
    /// A request, by its name in the OpenAPI document and the class of its status.
    OfRequest { operation: &'static str, status: &'static str }
    /// A request, by its name in the OpenAPI document.
    OfOperation { operation: &'static str }
    /// An error, by its code.
    OfCode { code: &'static str }
    /// The end of a stream, by its reason.
    OfReason { reason: &'static str }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_tenants_have_labels_of_their_own() {
        let tenants = Tenants::default();
        for number in 0..2 * TENANTS_MAX {
            let name = format!("t{number}");
            let label = tenants.label(&TenantId::new(&name).unwrap());
            assert_eq!(&*label, if number < TENANTS_MAX { &*name } else { OTHER });
        }
        assert_eq!(&*tenants.label(&TenantId::new("t0").unwrap()), "t0");
        assert_eq!(tenants.all().len(), TENANTS_MAX);
    }
}
