//! `WorkflowService`.

use contracts::orchestrator::v1::{
    ArchiveWorkflowRequest, ArchiveWorkflowResponse, CreateWorkflowRequest, CreateWorkflowResponse, GetWorkflowRequest,
    GetWorkflowResponse, ListWorkflowsRequest, ListWorkflowsResponse, UpdateWorkflowRequest, UpdateWorkflowResponse,
    get_workflow_request::Workflow, workflow_service_server::WorkflowService,
};
use errors::Error;
use store::{PageSize, PageToken};
use tonic::{Request, Response, Status};

use super::{Api, wire};
use crate::{
    app::Change,
    store::{WorkflowFilter, WorkflowRef},
};

#[tonic::async_trait]
impl WorkflowService for Api {
    async fn create_workflow(
        &self,
        request: Request<CreateWorkflowRequest>,
    ) -> Result<Response<CreateWorkflowResponse>, Status> {
        let request = request.into_inner();
        let namespace = wire::namespace(&request.namespace)?;
        let id = wire::non_empty(&request.workflow_id).map(wire::workflow_id).transpose()?;
        let row = self.app.create_workflow(namespace, id, &request.definition).await?;
        Ok(Response::new(CreateWorkflowResponse { workflow: Some(wire::workflow(row)) }))
    }

    async fn update_workflow(
        &self,
        request: Request<UpdateWorkflowRequest>,
    ) -> Result<Response<UpdateWorkflowResponse>, Status> {
        let request = request.into_inner();
        let change = Change {
            namespace: wire::namespace(&request.namespace)?,
            id: wire::workflow_id(&request.workflow_id)?,
            definition: request.definition.into(),
            expected_version: wire::non_zero(request.expected_version),
        };
        let row = self.app.update_workflow(change).await?;
        Ok(Response::new(UpdateWorkflowResponse { workflow: Some(wire::workflow(row)) }))
    }

    async fn get_workflow(
        &self,
        request: Request<GetWorkflowRequest>,
    ) -> Result<Response<GetWorkflowResponse>, Status> {
        let request = request.into_inner();
        let namespace = wire::namespace(&request.namespace)?;
        let workflow = match request.workflow {
            Some(Workflow::WorkflowId(id)) => WorkflowRef::Id(wire::workflow_id(&id)?),
            Some(Workflow::Name(name)) => WorkflowRef::Name(name),
            None => return Err(Error::invalid_field("workflow", "missing_field", "an id or a name is needed").into()),
        };
        let row = self.app.workflow(&namespace, &workflow, wire::non_zero(request.version)).await?;
        Ok(Response::new(GetWorkflowResponse { workflow: Some(wire::workflow(row)) }))
    }

    async fn list_workflows(
        &self,
        request: Request<ListWorkflowsRequest>,
    ) -> Result<Response<ListWorkflowsResponse>, Status> {
        let request = request.into_inner();
        let size = PageSize::from_field(request.page_size);
        let filter = WorkflowFilter {
            namespace: wire::namespace(&request.namespace)?,
            include_archived: request.include_archived,
            name: wire::non_empty(&request.name).map(str::to_owned),
            after: PageToken::parse(&request.page_token)?,
            newest_first: request.newest_first,
            limit: size.get(),
        };
        let page = self.app.workflows(&filter).await?;
        let next = page.next(|last| PageToken::after(last.id));
        let workflows = page.rows.into_iter().map(wire::workflow).collect();
        Ok(Response::new(ListWorkflowsResponse { workflows, next_page_token: next.into_field() }))
    }

    async fn archive_workflow(
        &self,
        request: Request<ArchiveWorkflowRequest>,
    ) -> Result<Response<ArchiveWorkflowResponse>, Status> {
        let request = request.into_inner();
        let (namespace, id) = (wire::namespace(&request.namespace)?, wire::workflow_id(&request.workflow_id)?);
        let expected = wire::non_zero(request.expected_version);
        let archived = self.app.archive_workflow(&namespace, id, expected).await?;
        Ok(Response::new(ArchiveWorkflowResponse { archived }))
    }
}
