//! What each route needs. What is not listed is refused; a test compares the list with the described routes.

use std::fmt::Write as _;

use access::{Permission, Permission as P, Principal, RPCS, Reach, Role, Rule};
use http::{Method, StatusCode};

use crate::problem::Problem;

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: it tells nothing, or asks for its credential itself.
    Nothing,
    /// A permission.
    Rule(Rule),
}

const fn within(permission: Permission) -> Need {
    Need::Rule(Rule::of(permission))
}

const fn beyond(permission: Permission) -> Need {
    Need::Rule(Rule::beyond(permission))
}

/// Every described route.
pub(crate) const ROUTES: &[(&str, &str, Need)] = &[
    ("GET", "/api/v1/agents", within(P::AgentsRead)),
    ("POST", "/api/v1/agents", within(P::AgentsWrite)),
    ("GET", "/api/v1/agents/select", within(P::AgentsRead)),
    ("GET", "/api/v1/agents/{id}", within(P::AgentsRead)),
    ("PUT", "/api/v1/agents/{id}", within(P::AgentsWrite)),
    ("DELETE", "/api/v1/agents/{id}", within(P::AgentsWrite)),
    ("POST", "/api/v1/agents/{id}/message", within(P::MessagesSend)),
    ("GET", "/api/v1/audit", within(P::AuditRead)),
    ("GET", "/api/v1/audit/export", within(P::AuditRead)),
    ("GET", "/api/v1/audit/verify", beyond(P::AuditRead)),
    ("GET", "/api/v1/auth/keys", within(P::KeysManage)),
    ("POST", "/api/v1/auth/keys", within(P::KeysManage)),
    ("GET", "/api/v1/auth/keys/{id}", within(P::KeysManage)),
    ("DELETE", "/api/v1/auth/keys/{id}", within(P::KeysManage)),
    ("POST", "/api/v1/auth/keys/{id}/rotate", within(P::KeysManage)),
    ("GET", "/api/v1/auth/me", within(P::Own)),
    ("POST", "/api/v1/auth/revoke", Need::Nothing),
    ("POST", "/api/v1/auth/token", Need::Nothing),
    ("GET", "/api/v1/dead-letters", within(P::DeadLettersRead)),
    ("POST", "/api/v1/dead-letters/purge", within(P::DeadLettersManage)),
    ("POST", "/api/v1/dead-letters/replay", within(P::DeadLettersManage)),
    ("GET", "/api/v1/dead-letters/{id}", within(P::DeadLettersRead)),
    ("DELETE", "/api/v1/dead-letters/{id}", within(P::DeadLettersManage)),
    ("POST", "/api/v1/dead-letters/{id}/replay", within(P::DeadLettersManage)),
    ("GET", "/api/v1/executions", within(P::ExecutionsRead)),
    ("GET", "/api/v1/executions/{id}", within(P::ExecutionsRead)),
    ("POST", "/api/v1/executions/{id}/cancel", within(P::ExecutionsControl)),
    ("GET", "/api/v1/executions/{id}/events", within(P::ExecutionsRead)),
    ("GET", "/api/v1/executions/{id}/explain", within(P::ExecutionsRead)),
    ("POST", "/api/v1/executions/{id}/pause", within(P::ExecutionsControl)),
    ("POST", "/api/v1/executions/{id}/resume", within(P::ExecutionsControl)),
    ("POST", "/api/v1/executions/{id}/retry", within(P::ExecutionsControl)),
    ("POST", "/api/v1/executions/{id}/signals/{name}", within(P::ExecutionsControl)),
    ("GET", "/api/v1/executions/{id}/verify", within(P::ExecutionsRead)),
    ("GET", "/api/v1/liveness", beyond(P::SystemRead)),
    ("GET", "/api/v1/messages", within(P::MessagesRead)),
    ("POST", "/api/v1/messages", within(P::MessagesSend)),
    ("GET", "/api/v1/messages/{id}", within(P::MessagesRead)),
    ("POST", "/api/v1/topics/{topic}", within(P::TopicsPublish)),
    ("GET", "/api/v1/topics/{pattern}/events", within(P::TopicsRead)),
    ("GET", "/api/v1/workflows", within(P::WorkflowsRead)),
    ("POST", "/api/v1/workflows", within(P::WorkflowsWrite)),
    ("GET", "/api/v1/workflows/{id}", within(P::WorkflowsRead)),
    ("PUT", "/api/v1/workflows/{id}", within(P::WorkflowsWrite)),
    ("DELETE", "/api/v1/workflows/{id}", within(P::WorkflowsWrite)),
    ("POST", "/api/v1/workflows/{id}/cancel", within(P::ExecutionsControl)),
    ("POST", "/api/v1/workflows/{id}/execute", within(P::ExecutionsStart)),
    ("GET", "/api/v1/workflows/{id}/status", within(P::ExecutionsRead)),
    ("GET", "/api/v1/ws", within(P::ExecutionsRead)),
    ("GET", "/health", Need::Nothing),
    ("GET", "/health/live", Need::Nothing),
    ("GET", "/health/ready", Need::Nothing),
    ("GET", "/metrics", beyond(P::SystemRead)),
    ("GET", "/openapi.json", Need::Nothing),
];

/// What a route needs; nothing where it is not listed.
pub(crate) fn need(method: &Method, path: &str) -> Option<Need> {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    ROUTES.iter().find(|(listed, template, _)| *listed == method && *template == path).map(|(_, _, need)| *need)
}

/// Is there a route at this path, with whatever method?
pub(crate) fn is_listed(path: &str) -> bool {
    ROUTES.iter().any(|(_, template, _)| *template == path)
}

/// May somebody do what a route does?
pub(crate) fn authorize(rule: Rule, principal: &Principal) -> Result<(), Problem> {
    if !principal.may(rule.permission) {
        let detail = format!("this needs the permission {}, which {principal} does not have", rule.permission);
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    if rule.beyond_namespaces && principal.reach != Reach::Everything {
        let detail = "this concerns more than the namespace that the credential is bound to";
        return Err(Problem::new(StatusCode::FORBIDDEN, "namespace_forbidden", detail));
    }
    Ok(())
}

/// Who may do what, as `docs/security.md` shows it: routes, then RPCs.
pub fn matrix() -> String {
    let mut text = String::from("| route | permission | viewer | operator | developer | admin | agent |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
    for (method, path, need) in ROUTES {
        let rule = match need {
            Need::Nothing => None,
            Need::Rule(rule) => Some(*rule),
        };
        row(&mut text, &format!("{method} {path}"), rule);
    }
    text.push_str("\n| RPC | permission | viewer | operator | developer | admin | agent |\n");
    text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
    for (path, rule) in RPCS {
        let name = path.trim_start_matches("/troupe.").replace(".v1.", ".");
        row(&mut text, &name, Some(*rule));
    }
    text
}

fn row(text: &mut String, name: &str, rule: Option<Rule>) {
    let permission = rule.map_or("none".to_owned(), |rule| {
        let beyond = if rule.beyond_namespaces { ", all namespaces" } else { "" };
        format!("`{}`{beyond}", rule.permission)
    });
    let _ = write!(text, "| `{name}` | {permission} |");
    for role in Role::ALL {
        let may = rule.is_none_or(|rule| role.permissions().contains(rule.permission));
        text.push_str(if may { " yes |" } else { " |" });
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_described_route_is_listed_and_nothing_else() {
        let document = serde_json::to_value(crate::document()).unwrap();
        let described = document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        });
        let listed = ROUTES.iter().map(|(method, path, _)| format!("{method} {path}"));
        assert_eq!(listed.collect::<BTreeSet<_>>(), described.collect::<BTreeSet<_>>());
    }
}
