"""A stream whose owner died is ended as interrupted, whoever finds it: recorded first, then fenced and closed."""

from proxy.relay.record import Records
from proxy.streams.client import Reply, Storage
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer, RetryPolicy

__all__ = ["end_orphan"]

_FENCE = 1  # the producer epoch of whoever takes over; the owner's is 0


async def end_orphan(
    storage: Storage, records: Records, retry: RetryPolicy, stream_id: str, *, owner: str | None = None
) -> bool:
    """End the stream; False when it is not open, or not `owner`'s. Nothing of its owner is stored any more afterwards.

    Repeating it, here or elsewhere at the same time, does no harm. An owner that finds its record taken over, and has
    more to say than that the stream is whole, ends it in this way too. Raises StorageError.
    """
    records.forget(stream_id)
    metadata = await storage.head(stream_id)
    if metadata is None or b"stream-closed" in metadata.headers:
        return False
    record = await records.get(stream_id)
    if owner is not None and (record is None or record.owner != owner):
        return False
    is_recorded = record is not None and record.outcome is None  # its owner may have recorded why it ended
    if record is not None and is_recorded:
        await records.end(stream_id, record, Outcome.INTERRUPTED, budget=retry.budget, fence=_FENCE)
    content_type = metadata.headers.get(b"content-type") or b"application/octet-stream"
    life = record.transfer if record is not None else ""
    reply = await Producer(storage, stream_id, content_type, retry, epoch=_FENCE, life=life).close()
    if record is not None and is_recorded and reply is Reply.CLOSED:  # its owner had finished in between
        await records.withdraw(stream_id, record, fence=_FENCE + 1)
        return False
    return True
