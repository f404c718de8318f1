//! The classes of failure.

use tonic::Code as Grpc;

/// The class of a failure: everything generic that an edge must decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is faulty.
    Invalid,
    /// Nobody known asks.
    Unauthenticated,
    /// Somebody known asks for too much.
    Forbidden,
    /// It is not there.
    NotFound,
    /// It is there already.
    Exists,
    /// It changed meanwhile: read again, then try again.
    Conflict,
    /// Its state forbids the call.
    WrongState,
    /// A limit is reached.
    Exhausted,
    /// Something needed does not answer.
    Unavailable,
    /// It took too long.
    Timeout,
    /// Our own fault.
    Internal,
}

impl Code {
    /// The gRPC code.
    pub const fn grpc(self) -> Grpc {
        match self {
            Self::Invalid => Grpc::InvalidArgument,
            Self::Unauthenticated => Grpc::Unauthenticated,
            Self::Forbidden => Grpc::PermissionDenied,
            Self::NotFound => Grpc::NotFound,
            Self::Exists => Grpc::AlreadyExists,
            Self::Conflict => Grpc::Aborted,
            Self::WrongState => Grpc::FailedPrecondition,
            Self::Exhausted => Grpc::ResourceExhausted,
            Self::Unavailable => Grpc::Unavailable,
            Self::Timeout => Grpc::DeadlineExceeded,
            Self::Internal => Grpc::Internal,
        }
    }

    /// The class of a gRPC code.
    pub const fn from_grpc(code: Grpc) -> Self {
        match code {
            Grpc::InvalidArgument => Self::Invalid,
            Grpc::Unauthenticated => Self::Unauthenticated,
            Grpc::PermissionDenied => Self::Forbidden,
            Grpc::NotFound => Self::NotFound,
            Grpc::AlreadyExists => Self::Exists,
            Grpc::Aborted => Self::Conflict,
            Grpc::FailedPrecondition => Self::WrongState,
            Grpc::ResourceExhausted => Self::Exhausted,
            Grpc::Unavailable | Grpc::Cancelled => Self::Unavailable,
            Grpc::DeadlineExceeded => Self::Timeout,
            // Out of range is what tonic says of an answer that is too large: no caller's fault.
            Grpc::OutOfRange | Grpc::Ok | Grpc::Unknown | Grpc::Unimplemented | Grpc::Internal | Grpc::DataLoss => {
                Self::Internal
            }
        }
    }

    /// The HTTP status.
    pub const fn http(self) -> http::StatusCode {
        match self {
            Self::Invalid => http::StatusCode::BAD_REQUEST,
            Self::Unauthenticated => http::StatusCode::UNAUTHORIZED,
            Self::Forbidden => http::StatusCode::FORBIDDEN,
            Self::NotFound => http::StatusCode::NOT_FOUND,
            Self::Exists | Self::Conflict | Self::WrongState => http::StatusCode::CONFLICT,
            Self::Exhausted => http::StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => http::StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => http::StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// May the same call succeed when it is simply made again?
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Exhausted | Self::Unavailable | Self::Timeout => true,
            Self::Invalid
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::NotFound
            | Self::Exists
            | Self::Conflict
            | Self::WrongState
            | Self::Internal => false,
        }
    }
}
