"""Which streams a caller may open: those of its token's subject (protocol: Authentication)."""

from proxy.base.errors import Code, Refusal
from proxy.handlers.call import Call
from proxy.policy.caller import Credential
from proxy.relay.record import Records
from proxy.streams.answers import StorageError

__all__ = ["check_subject", "no_stream"]


def no_stream() -> Refusal:
    """The answer for a stream that does not exist, or that the caller may not know of."""
    return Refusal(Code.STREAM_NOT_FOUND, "there is no such stream")


async def check_subject(call: Call, records: Records) -> None:
    """Return when the caller may open the stream. Raises Refusal as for a stream that does not exist, StorageError.

    Only a token is bound to a subject, so only a token needs the record. The record is read before storage is asked for
    the stream. So a caller who may not open the stream learns nothing from the time that the answer takes.
    """
    if call.caller.credential is not Credential.TOKEN:
        return
    try:
        record = await records.get(call.stream_id)
    except StorageError as error:
        if not error.is_final:
            raise
        record = None  # a record that cannot be read has no owner
    if not call.caller.may_open(record.subject if record is not None else None):
        raise no_stream()
