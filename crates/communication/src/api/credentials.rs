//! `CredentialService`, and how a session gets another credential.

use access::Credential;
use contracts::communication::v1::{
    CredentialInUse, ListCredentialsRequest, ListCredentialsResponse, RenewSessionRequest, RenewSessionResponse,
    RevokeCredentialsRequest, RevokeCredentialsResponse, credential_service_server::CredentialService,
};
use domain::SessionId;
use tonic::{Request, Response, Status};

use super::{Api, Context};
use crate::{app::Credentials, error::CommunicationError};

/// Credentials of one call.
const PORTION: usize = 500;

#[tonic::async_trait]
impl CredentialService for Api {
    async fn list_credentials(
        &self,
        request: Request<ListCredentialsRequest>,
    ) -> Result<Response<ListCredentialsResponse>, Status> {
        let after = request.into_inner().after_session_id;
        let after = if after.is_empty() { None } else { Some(session_id("after_session_id", &after)?) };
        let in_use = self.0.credentials.in_use(after, PORTION).into_iter();
        let credentials =
            in_use.map(|(session, family)| CredentialInUse { session_id: session.to_string(), family }).collect();
        Ok(Response::new(ListCredentialsResponse { credentials }))
    }

    async fn revoke_credentials(
        &self,
        request: Request<RevokeCredentialsRequest>,
    ) -> Result<Response<RevokeCredentialsResponse>, Status> {
        let families = request.into_inner().families;
        if families.len() > PORTION {
            let message = format!("must be at most {PORTION}");
            return Err(CommunicationError::field("families", "too_many", message).into());
        }
        self.0.credentials.revoke(families);
        Ok(Response::new(RevokeCredentialsResponse {}))
    }
}

/// A session goes on for as long as the credential of this request is good.
pub(super) fn renew(
    context: &Context,
    request: Request<RenewSessionRequest>,
) -> Result<Response<RenewSessionResponse>, Status> {
    let shown = request.extensions().get::<Credential>().cloned();
    let session = session_id("session_id", &request.into_inner().session_id)?;
    // Whoever shows no agent's token has a session that ends with none.
    let (Some(principal), Some(credential)) = (access::current(), shown) else {
        return Err(Credentials::not_found(session).into());
    };
    context.credentials.renew(session, &principal, credential)?;
    Ok(Response::new(RenewSessionResponse {}))
}

fn session_id(field: &'static str, text: &str) -> Result<SessionId, CommunicationError> {
    text.parse().map_err(|error| CommunicationError::field(field, "invalid_id", error))
}
