//! What each RPC needs. What is not listed is refused; a test compares the list with the contracts.

use crate::{Permission, Permission as P};

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What its caller must be allowed to do.
    pub permission: Permission,
    /// It concerns more than one namespace, so whoever is bound to one is refused.
    pub beyond_namespaces: bool,
}

impl Rule {
    /// Within a namespace.
    pub const fn of(permission: Permission) -> Self {
        Self { permission, beyond_namespaces: false }
    }

    /// For more than one.
    pub const fn beyond(permission: Permission) -> Self {
        Self { permission, beyond_namespaces: true }
    }
}

/// Every RPC of the contracts.
pub const RPCS: &[(&str, Rule)] = &[
    ("/troupe.access.v1.DenialService/TakeDenials", Rule::beyond(P::Internal)),
    ("/troupe.agent_runner.v1.AgentRunnerService/ListHostedAgents", Rule::beyond(P::AgentsRead)),
    ("/troupe.agent_runner.v1.AgentRunnerService/LoadAgent", Rule::of(P::AgentsWrite)),
    ("/troupe.agent_runner.v1.AgentRunnerService/UnloadAgent", Rule::of(P::AgentsWrite)),
    ("/troupe.communication.v1.AgentSessionService/OpenSession", Rule::of(P::SessionsOpen)),
    ("/troupe.communication.v1.AgentSessionService/RenewSession", Rule::of(P::SessionsOpen)),
    ("/troupe.communication.v1.CredentialService/ListCredentials", Rule::beyond(P::Internal)),
    ("/troupe.communication.v1.CredentialService/RevokeCredentials", Rule::beyond(P::Internal)),
    ("/troupe.communication.v1.DeadLetterService/GetDeadLetter", Rule::of(P::DeadLettersRead)),
    ("/troupe.communication.v1.DeadLetterService/ListDeadLetters", Rule::of(P::DeadLettersRead)),
    ("/troupe.communication.v1.DeadLetterService/PurgeDeadLetter", Rule::of(P::DeadLettersManage)),
    ("/troupe.communication.v1.DeadLetterService/PurgeDeadLetters", Rule::of(P::DeadLettersManage)),
    ("/troupe.communication.v1.DeadLetterService/ReplayDeadLetter", Rule::of(P::DeadLettersManage)),
    ("/troupe.communication.v1.DeadLetterService/ReplayDeadLetters", Rule::of(P::DeadLettersManage)),
    ("/troupe.communication.v1.MessageService/GetMessage", Rule::of(P::MessagesRead)),
    ("/troupe.communication.v1.MessageService/ListMessages", Rule::of(P::MessagesRead)),
    ("/troupe.communication.v1.MessageService/SendMessage", Rule::of(P::MessagesSend)),
    ("/troupe.communication.v1.TaskService/ExchangeTasks", Rule::beyond(P::Internal)),
    ("/troupe.communication.v1.TopicService/Publish", Rule::of(P::TopicsPublish)),
    ("/troupe.communication.v1.TopicService/Subscribe", Rule::of(P::TopicsRead)),
    ("/troupe.orchestrator.v1.ExecutionService/CancelExecution", Rule::of(P::ExecutionsControl)),
    ("/troupe.orchestrator.v1.ExecutionService/CheckLiveness", Rule::beyond(P::SystemRead)),
    ("/troupe.orchestrator.v1.ExecutionService/ExplainExecution", Rule::of(P::ExecutionsRead)),
    ("/troupe.orchestrator.v1.ExecutionService/GetExecution", Rule::of(P::ExecutionsRead)),
    ("/troupe.orchestrator.v1.ExecutionService/ListEvents", Rule::of(P::ExecutionsRead)),
    ("/troupe.orchestrator.v1.ExecutionService/ListExecutions", Rule::of(P::ExecutionsRead)),
    ("/troupe.orchestrator.v1.ExecutionService/PauseExecution", Rule::of(P::ExecutionsControl)),
    ("/troupe.orchestrator.v1.ExecutionService/ReportChild", Rule::beyond(P::Internal)),
    ("/troupe.orchestrator.v1.ExecutionService/ResumeExecution", Rule::of(P::ExecutionsControl)),
    // A task's dead letter is replayed by a retry of its execution, which managing dead letters allows at the gateway.
    ("/troupe.orchestrator.v1.ExecutionService/RetryExecution", Rule::of(P::ExecutionsControl)),
    ("/troupe.orchestrator.v1.ExecutionService/ReviewLocks", Rule::beyond(P::Internal)),
    ("/troupe.orchestrator.v1.ExecutionService/SignalExecution", Rule::of(P::ExecutionsControl)),
    ("/troupe.orchestrator.v1.ExecutionService/StartExecution", Rule::of(P::ExecutionsStart)),
    ("/troupe.orchestrator.v1.ExecutionService/VerifyExecution", Rule::of(P::ExecutionsRead)),
    ("/troupe.orchestrator.v1.ExecutionService/WatchEvents", Rule::of(P::ExecutionsRead)),
    ("/troupe.orchestrator.v1.WorkflowService/ArchiveWorkflow", Rule::of(P::WorkflowsWrite)),
    ("/troupe.orchestrator.v1.WorkflowService/CreateWorkflow", Rule::of(P::WorkflowsWrite)),
    ("/troupe.orchestrator.v1.WorkflowService/GetWorkflow", Rule::of(P::WorkflowsRead)),
    ("/troupe.orchestrator.v1.WorkflowService/ListWorkflows", Rule::of(P::WorkflowsRead)),
    ("/troupe.orchestrator.v1.WorkflowService/UpdateWorkflow", Rule::of(P::WorkflowsWrite)),
    ("/troupe.registry.v1.RegistryService/DeleteAgent", Rule::of(P::AgentsWrite)),
    ("/troupe.registry.v1.RegistryService/GetAgent", Rule::of(P::AgentsRead)),
    ("/troupe.registry.v1.RegistryService/Heartbeat", Rule::beyond(P::Internal)),
    ("/troupe.registry.v1.RegistryService/ListAgents", Rule::of(P::AgentsRead)),
    ("/troupe.registry.v1.RegistryService/RegisterAgent", Rule::of(P::AgentsWrite)),
    ("/troupe.registry.v1.RegistryService/SelectAgents", Rule::of(P::AgentsRead)),
    ("/troupe.registry.v1.RegistryService/UpdateAgent", Rule::of(P::AgentsWrite)),
    ("/troupe.registry.v1.RegistryService/WatchAgents", Rule::of(P::AgentsRead)),
];

/// What the RPC at a path needs; nothing where it is none of ours.
pub fn rule(path: &str) -> Option<Rule> {
    RPCS.binary_search_by_key(&path, |(path, _)| path).ok().map(|found| RPCS[found].1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    #[test]
    fn every_rpc_of_the_contracts_is_listed_and_nothing_else() {
        let files = prost_types::FileDescriptorSet::decode(contracts::FILE_DESCRIPTOR_SET).unwrap().file;
        let rpcs = files.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                let path = move |method: &prost_types::MethodDescriptorProto| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                };
                service.method.iter().map(path)
            })
        });
        let listed: BTreeSet<_> = RPCS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(rpcs.collect::<BTreeSet<_>>(), listed);
    }

    #[test]
    fn the_list_is_sorted_as_the_search_needs_it() {
        assert!(RPCS.is_sorted_by_key(|(path, _)| *path));
        for (path, expected) in RPCS {
            assert_eq!(rule(path), Some(*expected));
        }
        assert_eq!(rule("/troupe.registry.v1.RegistryService/Nothing"), None);
    }
}
