"""Every error the proxy answers with: one enum, its HTTP status beside it. Owns names, not messages."""

from enum import Enum

__all__ = ["Code", "Refusal"]


class Code(Enum):
    """An error code as it stands in `{"error":{"code":…}}`, with the HTTP status that carries it."""

    status: int

    def __new__(cls, code: str, status: int) -> "Code":
        member = object.__new__(cls)
        member._value_ = code
        member.status = status
        return member

    BAD_REQUEST = "BAD_REQUEST", 400
    INVALID_REQUEST = "INVALID_REQUEST", 400
    MISSING_UPSTREAM_URL = "MISSING_UPSTREAM_URL", 400
    MISSING_UPSTREAM_METHOD = "MISSING_UPSTREAM_METHOD", 400
    INVALID_UPSTREAM_METHOD = "INVALID_UPSTREAM_METHOD", 400
    REDIRECT_NOT_ALLOWED = "REDIRECT_NOT_ALLOWED", 400
    MISSING_SECRET = "MISSING_SECRET", 401
    INVALID_SECRET = "INVALID_SECRET", 401
    MISSING_SIGNATURE = "MISSING_SIGNATURE", 401
    SIGNATURE_INVALID = "SIGNATURE_INVALID", 401
    SIGNATURE_EXPIRED = "SIGNATURE_EXPIRED", 401
    INSUFFICIENT_SCOPE = "INSUFFICIENT_SCOPE", 403
    UPSTREAM_NOT_ALLOWED = "UPSTREAM_NOT_ALLOWED", 403
    NOT_FOUND = "NOT_FOUND", 404
    STREAM_NOT_FOUND = "STREAM_NOT_FOUND", 404
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED", 405
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT", 408
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT", 409
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE", 413
    URI_TOO_LONG = "URI_TOO_LONG", 414
    EXPECTATION_FAILED = "EXPECTATION_FAILED", 417
    HEAD_TOO_LARGE = "HEAD_TOO_LARGE", 431
    INTERNAL_ERROR = "INTERNAL_ERROR", 500
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED", 501
    UPSTREAM_ERROR = "UPSTREAM_ERROR", 502
    RESPONSE_TOO_LARGE = "RESPONSE_TOO_LARGE", 502
    STORAGE_ERROR = "STORAGE_ERROR", 502
    OVERLOADED = "OVERLOADED", 503
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE", 503
    DRAINING = "DRAINING", 503
    UPSTREAM_TIMEOUT = "UPSTREAM_TIMEOUT", 504
    VERSION_NOT_SUPPORTED = "VERSION_NOT_SUPPORTED", 505


class Refusal(Exception):
    """A request is answered with `code` and `message`; the message is for the caller and holds no secret."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
