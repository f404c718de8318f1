//! What is known of single RPCs, by path.

/// RPCs that do the same however often they are done, so that one of unknown fate may be sent again: they read, or they tell
/// what holds now. Whatever is not listed is sent once. Creating something is repeated only by those who hold its
/// idempotency key: a client, or the gateway for it.
const IDEMPOTENT: &[&str] = &[
    "/grpc.health.v1.Health/Check",
    "/troupe.agent_runner.v1.AgentRunnerService/ListHostedAgents",
    "/troupe.communication.v1.AgentSessionService/RenewSession",
    "/troupe.communication.v1.CredentialService/ListCredentials",
    "/troupe.communication.v1.CredentialService/RevokeCredentials",
    "/troupe.communication.v1.DeadLetterService/GetDeadLetter",
    "/troupe.communication.v1.DeadLetterService/ListDeadLetters",
    "/troupe.communication.v1.MessageService/GetMessage",
    "/troupe.communication.v1.MessageService/ListMessages",
    "/troupe.orchestrator.v1.ExecutionService/CheckLiveness",
    "/troupe.orchestrator.v1.ExecutionService/ExplainExecution",
    "/troupe.orchestrator.v1.ExecutionService/GetExecution",
    "/troupe.orchestrator.v1.ExecutionService/ListEvents",
    "/troupe.orchestrator.v1.ExecutionService/ListExecutions",
    "/troupe.orchestrator.v1.ExecutionService/VerifyExecution",
    "/troupe.orchestrator.v1.WorkflowService/GetWorkflow",
    "/troupe.orchestrator.v1.WorkflowService/ListWorkflows",
    "/troupe.registry.v1.RegistryService/GetAgent",
    "/troupe.registry.v1.RegistryService/Heartbeat",
    "/troupe.registry.v1.RegistryService/ListAgents",
    "/troupe.registry.v1.RegistryService/SelectAgents",
];

/// RPCs with a stream: they stay open for as long as both sides like, so no deadline cuts them.
const STREAMS: &[&str] = &[
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/troupe.communication.v1.AgentSessionService/OpenSession",
    "/troupe.communication.v1.TaskService/ExchangeTasks",
    "/troupe.communication.v1.TopicService/Subscribe",
    "/troupe.orchestrator.v1.ExecutionService/WatchEvents",
    "/troupe.registry.v1.RegistryService/WatchAgents",
];

pub(crate) fn is_idempotent(path: &str) -> bool {
    IDEMPOTENT.contains(&path)
}

pub(crate) fn is_stream(path: &str) -> bool {
    STREAMS.contains(&path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message as _;

    use super::*;

    /// Every RPC of the contracts, and whether it streams.
    fn contracts() -> BTreeMap<String, bool> {
        let files = prost_types::FileDescriptorSet::decode(contracts::FILE_DESCRIPTOR_SET).unwrap().file;
        let rpcs = files.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                service.method.iter().map(move |method| {
                    (
                        format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                        method.client_streaming() || method.server_streaming(),
                    )
                })
            })
        });
        rpcs.collect()
    }

    #[test]
    fn the_tables_name_what_the_contracts_have() {
        let contracts = contracts();
        for path in IDEMPOTENT.iter().chain(STREAMS).filter(|path| path.starts_with("/troupe.")) {
            assert!(contracts.contains_key(*path), "{path} is no RPC");
        }
        for (path, streams) in &contracts {
            assert_eq!(is_stream(path), *streams, "{path}");
            assert!(!(is_stream(path) && is_idempotent(path)), "{path} cannot be sent again");
        }
    }
}
