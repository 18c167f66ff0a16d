//! What an expression compiles to.

use std::ops::RangeInclusive;

use serde_json::Value;

/// One operation. Its depth is bounded by the scan of the source.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Literal(Value),
    Inputs,
    Run,
    Item,
    Position,
    Step {
        id: String,
        part: Part,
    },
    HasPart {
        id: String,
        part: Part,
    },
    /// The variable of an enclosing [`Fold`], counted from the outermost.
    Local(usize),
    Select(Box<Self>, String),
    Has(Box<Self>, String),
    Index(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Negate(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Ternary(Box<(Self, Self, Self)>),
    Binary(Operator, Box<Self>, Box<Self>),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Call(Function, Vec<Self>),
    Fold(Box<Fold>),
}

/// What can be read of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Status,
    Output,
    Error,
}

impl Part {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "status" => Some(Self::Status),
            "output" => Some(Self::Output),
            "error" => Some(Self::Error),
            _ => None,
        }
    }
}

/// A strict operator with two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl Operator {
    /// As the author writes it.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
        }
    }
}

/// A macro over the elements of a list or the keys of a map.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    pub(super) range: Node,
    pub(super) goal: Goal,
}

/// What a [`Fold`] makes of the elements.
#[derive(Clone, Debug)]
pub(super) enum Goal {
    All(Node),
    Exists(Node),
    ExistsOne(Node),
    /// `map` with two or three arguments, and `filter`.
    Collect {
        condition: Option<Node>,
        result: Node,
    },
}

/// A function of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    UpperAscii,
    Trim,
    Split,
    Join,
    Replace,
    Substring,
    Int,
    Double,
    String,
    Bool,
    Sort,
    Distinct,
    Flatten,
    Range,
    Min,
    Max,
}

/// How a [`Function`] is called.
#[derive(Debug)]
pub(super) struct Signature {
    pub(super) name: &'static str,
    pub(super) function: Function,
    /// Whether `value.name(…)` is a way to call it.
    pub(super) on_value: bool,
    /// Whether `name(…)` is a way to call it.
    pub(super) alone: bool,
    /// How many arguments, the value before the dot included.
    pub(super) arity: RangeInclusive<usize>,
    /// An example for messages.
    pub(super) usage: &'static str,
}

const fn method(
    name: &'static str,
    function: Function,
    arity: RangeInclusive<usize>,
    usage: &'static str,
) -> Signature {
    Signature { name, function, on_value: true, alone: false, arity, usage }
}

const fn global(
    name: &'static str,
    function: Function,
    arity: RangeInclusive<usize>,
    usage: &'static str,
) -> Signature {
    Signature { name, function, on_value: false, alone: true, arity, usage }
}

/// Every function there is.
pub(super) const SIGNATURES: &[Signature] = &[
    Signature {
        name: "size",
        function: Function::Size,
        on_value: true,
        alone: true,
        arity: 1..=1,
        usage: "size(value) or value.size()",
    },
    method("contains", Function::Contains, 2..=2, "text.contains(part)"),
    method("startsWith", Function::StartsWith, 2..=2, "text.startsWith(part)"),
    method("endsWith", Function::EndsWith, 2..=2, "text.endsWith(part)"),
    method("lowerAscii", Function::LowerAscii, 1..=1, "text.lowerAscii()"),
    method("upperAscii", Function::UpperAscii, 1..=1, "text.upperAscii()"),
    method("trim", Function::Trim, 1..=1, "text.trim()"),
    method("split", Function::Split, 2..=3, "text.split(separator) or text.split(separator, limit)"),
    method("join", Function::Join, 1..=2, "list.join() or list.join(separator)"),
    method("replace", Function::Replace, 3..=4, "text.replace(old, new) or text.replace(old, new, limit)"),
    method("substring", Function::Substring, 2..=3, "text.substring(start) or text.substring(start, end)"),
    global("int", Function::Int, 1..=1, "int(value)"),
    global("double", Function::Double, 1..=1, "double(value)"),
    global("string", Function::String, 1..=1, "string(value)"),
    global("bool", Function::Bool, 1..=1, "bool(value)"),
    method("sort", Function::Sort, 1..=1, "list.sort()"),
    method("distinct", Function::Distinct, 1..=1, "list.distinct()"),
    method("flatten", Function::Flatten, 1..=1, "list.flatten()"),
    global("range", Function::Range, 1..=1, "range(count)"),
    global("min", Function::Min, 1..=16, "min(a, b) or min(list)"),
    global("max", Function::Max, 1..=16, "max(a, b) or max(list)"),
];
