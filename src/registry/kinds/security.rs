//! `security.policy` entries, read and validated; the policies are kept for the evaluator.

use crate::registry::Id;
use crate::registry::diagnostic::word;
use crate::registry::fields::{Context, Fields};
use crate::registry::suggest::hint;
use crate::registry::yaml::Value;

/// The kinds that are looked at.
pub(in crate::registry) const KINDS: &[&str] = &["security.policy", "security.policy.expr"];
/// Kinds of the same family that grant and deny nothing.
pub(in crate::registry) const HARMLESS: &[&str] = &["security.token_store"];

const OPERATORS: &[&str] = &[
    "eq",
    "ne",
    "lt",
    "gt",
    "lte",
    "gte",
    "in",
    "nin",
    "exists",
    "nexists",
    "contains",
    "ncontains",
    "matches",
    "nmatches",
];

/// What a policy does to what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Permits it, unless another policy denies it.
    Allow,
    /// Denies it.
    Deny,
}

/// One condition; all of a policy's must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// A path such as `actor.id`.
    pub field: String,
    /// A word such as `eq`.
    pub operator: String,
    /// What is compared with.
    pub operand: Operand,
}

/// The right side of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// `value`, a list where several are given.
    Values(Vec<String>),
    /// `value_from`: another path.
    Field(String),
    /// Neither (for `exists`).
    Nothing,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its id.
    pub id: Id,
    /// Patterns of actions, `*` for all.
    pub actions: Vec<String>,
    /// Patterns of resources.
    pub resources: Vec<String>,
    /// What it does; always [`Effect::Deny`] where the conditions cannot be evaluated.
    pub effect: Effect,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// The groups it belongs to.
    pub groups: Vec<Id>,
    /// A `security.policy.expr`: its expression is not evaluated, so everything that its filters match is denied.
    pub expression: bool,
}

/// Reads one entry of a kind in [`KINDS`].
pub(in crate::registry) fn read(cx: &mut Context<'_, '_>, id: &Id, kind: &str, fields: &Fields<'_>) -> Option<Policy> {
    let expression = kind == "security.policy.expr";
    fields.only(cx, kind, &["name", "kind", "policy", "groups"], super::network::PASSED);
    fields.require(cx, "policy", "actions, resources and effect");
    let groups = groups(cx, id, fields);
    let body = Fields::of(cx, &format!("`policy` of {}", fields.owner), fields.get("policy")?)?;
    let known: &[&str] = match expression {
        true => &["actions", "resources", "effect", "expression"],
        false => &["actions", "resources", "effect", "conditions"],
    };
    body.only(cx, kind, known, &[]);
    body.require_any(cx, "actions", "`*`, an action, or a list of actions");
    body.require_any(cx, "resources", "`*`, a resource, or a list of resources");
    body.require(cx, "effect", "`allow` or `deny`");
    let written = body.word(cx, "effect", &[("allow", Effect::Allow), ("deny", Effect::Deny)]);
    if expression {
        cx.note(
            &fields.span,
            format!("{} is a security.policy.expr, whose expressions netjail does not evaluate", fields.owner),
            "everything that its actions and resources match is denied; write it as a security.policy with conditions",
        );
    }
    let texts = |list: Vec<(String, _)>| list.into_iter().map(|(text, _)| text).collect();
    Some(Policy {
        id: id.clone(),
        actions: texts(body.strings(cx, "actions")),
        resources: texts(body.strings(cx, "resources")),
        effect: if expression { Effect::Deny } else { written.unwrap_or(Effect::Deny) },
        conditions: if expression { Vec::new() } else { conditions(cx, &body) },
        groups,
        expression,
    })
}

/// The groups, a bare one completed with the entry's own namespace.
fn groups(cx: &mut Context<'_, '_>, id: &Id, fields: &Fields<'_>) -> Vec<Id> {
    let mut groups = Vec::new();
    for (text, span) in fields.strings(cx, "groups") {
        let group = if text.contains(':') { text.parse() } else { Id::new(id.namespace(), &text) };
        match group {
            Ok(group) => groups.push(group),
            Err(_) => cx.error(
                &span,
                format!("`{}` in `groups` of {} is not a group", word(&text), fields.owner),
                "expected `name` or `namespace:name`",
                "",
            ),
        }
    }
    groups
}

fn conditions(cx: &mut Context<'_, '_>, body: &Fields<'_>) -> Vec<Condition> {
    let list = match body.get("conditions").map(|node| (node, node.value())) {
        None => return Vec::new(),
        Some((_, Value::Sequence(list))) => list,
        Some((node, _)) => {
            let message = format!("`conditions` of {} is {}", body.owner, node.describe());
            body.wrong(cx, "conditions", message, "expected a list: `- {field: …, operator: …, value: …}`", "");
            return Vec::new();
        }
    };
    let mut conditions = Vec::new();
    for (index, node) in list.iter().enumerate() {
        let Some(item) = Fields::of(cx, &format!("condition {} in {}", index + 1, body.owner), node) else { continue };
        item.only(cx, "a condition", &["field", "operator", "value", "value_from"], &[]);
        item.require(cx, "field", "a path such as `actor.id`");
        item.require(cx, "operator", "a word such as `eq`");
        let text = |key| item.get(key).and_then(|node| node.text()).unwrap_or_default().to_owned();
        let (field, operator) = (text("field"), text("operator"));
        if !operator.is_empty() && !OPERATORS.contains(&operator.as_str()) {
            let message = format!("`{}` is not an operator", word(&operator));
            item.wrong(cx, "operator", message, "unknown operator", &hint(&operator, OPERATORS));
        }
        let operand = match (item.raw("value"), item.get("value_from")) {
            (Some(_), Some(_)) => {
                let message = format!("{} has both `value` and `value_from`", item.owner);
                item.wrong(cx, "value_from", message, "expected one of the two", "");
                continue;
            }
            (Some(_), None) => Operand::Values(item.strings(cx, "value").into_iter().map(|(text, _)| text).collect()),
            (None, Some(_)) => Operand::Field(text("value_from")),
            (None, None) if matches!(operator.as_str(), "exists" | "nexists") => Operand::Nothing,
            (None, None) => {
                let message = format!("{} compares with nothing", item.owner);
                cx.error(&item.span, message, "expected `value` or `value_from`", "");
                continue;
            }
        };
        conditions.push(Condition { field, operator, operand });
    }
    conditions
}
