//! The core's kinds of error as HTTP status codes.
//!
//! Owns: the one table. Promises: it is complete (no `_` arm: a new kind does not compile until it is decided here), and
//! no kind is a success. Leaves out: the body, which `reply` makes.

use axum::http::StatusCode;
use securereg::ErrorKind;

/// The status a failed call is answered with.
///
/// 400 is what pipelines know as "validation failed", so a wrong digest and refused content are 400 too. 409 means that
/// the request was fine but the state of the model or the registry is against it; 503 that the registry fails closed.
pub(crate) fn of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidInput | ErrorKind::DigestMismatch | ErrorKind::Refused => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::SourceChanged
        | ErrorKind::Conflict
        | ErrorKind::Quarantined
        | ErrorKind::Corrupt
        | ErrorKind::NotMounted => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        // Not 403: that says the token is wrong, and this is about the service's own rights on the machine.
        ErrorKind::Permission | ErrorKind::Io => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unreadable | ErrorKind::Manifest | ErrorKind::Audit | ErrorKind::Cancelled | ErrorKind::NoMemory => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_is_answered_as_a_success() {
        for kind in ErrorKind::ALL {
            let status = of(kind);
            assert!(status.is_client_error() || status.is_server_error(), "{kind:?} is {status}");
            assert_ne!(status, StatusCode::FORBIDDEN, "{kind:?}: 403 is said of tokens only");
        }
    }
}
