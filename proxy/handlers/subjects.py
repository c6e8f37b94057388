"""Whose streams a caller may open: those of its token's subject (protocol: Authentication)."""

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
    """Pass a caller who may open the stream. Raises Refusal, the one for no stream, and StorageError.

    Only tokens are bound to a subject, so that only they cost a look at the record. It comes before storage is asked
    for the stream itself: a caller who may not open it learns nothing from how long that takes.
    """
    if call.caller.credential is not Credential.TOKEN:
        return
    try:
        record = await records.get(call.stream_id)
    except StorageError as error:
        if not error.is_final:
            raise
        record = None  # a record that nobody can read belongs to nobody
    if not call.caller.may_open(record.subject if record is not None else None):
        raise no_stream()
