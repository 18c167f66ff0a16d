//! `fn/cel`: the value of an expression.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Failure, TEXT_BYTES_MAX, apart, invalid};
use crate::executor::StepContext;
use crate::expr::{Bounds, Expression, Scope, StepView};
use crate::limits::Limits;

/// What one evaluation may take; more than a condition may, since it holds up nobody else.
const BOUNDS: Bounds = Bounds { fuel: 20_000_000, bytes: TEXT_BYTES_MAX };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cel {
    expression: String,
    /// What the expression sees as `inputs`.
    #[serde(default)]
    vars: Map<String, Value>,
}

/// Evaluates an expression of the language of [`expr`](crate::expr) that sees nothing but `inputs`.
pub(super) async fn cel(_: StepContext, input: Cel) -> Result<Value, Failure> {
    let expression = Expression::compile(&input.expression, &Limits::default())
        .map_err(|error| invalid(format!("expression: {error} (at character {})", error.offset + 1)))?;
    if !expression.references().is_empty() || expression.uses_item() || expression.uses_index() {
        return Err(invalid(
            "expression: it sees `inputs` only; hand in what it needs of steps or of the item as `vars`",
        ));
    }
    let vars = Vars(Value::Object(input.vars));
    apart(move || {
        expression
            .evaluate(&vars, BOUNDS)
            .map_err(|error| Failure::fatal("expression_failed", format!("{}: {error}", error.code)))
    })
    .await
}

/// The variables as the only thing there is.
struct Vars(Value);

impl Scope for Vars {
    fn inputs(&self) -> &Value {
        &self.0
    }

    fn step(&self, _: &str) -> Option<StepView<'_>> {
        None
    }

    fn item(&self) -> Option<&Value> {
        None
    }

    fn index(&self) -> Option<u64> {
        None
    }

    fn run(&self) -> &Value {
        &Value::Null
    }
}
