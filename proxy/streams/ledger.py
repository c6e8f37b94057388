"""A small JSON stream that several writers extend, one message at a time, each knowing every message before its own.

Owns compare-and-append, which Durable Streams does not have as an operation, but which follows from idempotent
producers when all writers share one producer id and the epoch counts the messages:

- A message carries its number `n`: one more than that of the message before it, 0 for the first. It is sent as
  sequence number 0 of the epoch `n`.
- Two writers that know the same messages send the same epoch. Storage keeps the first and answers the second as its
  duplicate, without storing it. A writer that knows less than is there sends an older epoch, and is refused as fenced.
  In both cases it reads again. So every message was written with all earlier ones known, and nobody's message is lost
  once storage has answered "stored".
- A writer whose answer was lost sends the same message again. If that is answered "duplicate", it may be its own or
  another's: it looks whether its own message is there. Writers make their messages unequal (a token), so that the look
  decides.

Storage may forget a producer that was silent for a week; the next message is then accepted under any epoch, and this
still works, because epochs, unlike sequence numbers, need not start at 0.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import JSON, Storage
from proxy.streams.names import PRODUCER_EPOCH, PRODUCER_ID, PRODUCER_SEQ
from proxy.streams.retry import RetryPolicy, retried

__all__ = ["Ledger", "LedgerSettings", "Message", "next_number"]

Message = dict[str, object]
_NUMBER = "n"
_WRITER = b"ledger"  # the producer id that all writers share


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Bounds of ledgers."""

    ledger_ttl_seconds: int  # lifetime of a ledger, from its last read or write
    max_ledger_bytes: int  # largest ledger; a larger one can be neither read nor extended
    retry: RetryPolicy  # retries of appends


class Ledger:
    """One ledger by its name. Reading it restarts the time after which it expires."""

    def __init__(self, storage: Storage, name: str, settings: LedgerSettings) -> None:
        self._storage = storage
        self._name = name
        self._settings = settings

    async def open(self) -> list[Message]:
        """Every message so far; makes the ledger when there is none. Raises StorageError.

        One that is being made, in a storage that makes streams in several steps, is seen as empty.
        """
        if await self._storage.create(self._name, JSON, self._settings.ledger_ttl_seconds):
            return []
        return await self.read()

    async def read(self) -> list[Message]:
        """Every message so far, none when there is no such ledger. Raises StorageError."""
        content = await self._storage.read_whole(self._name, self._settings.max_ledger_bytes)
        try:
            messages = json.loads(content or b"[]")
            if all(type(message[_NUMBER]) is int for message in messages):
                return list(messages)
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        raise StorageError("a ledger holds what no proxy has written", is_final=True)

    async def extend(self, known: Sequence[Message], message: Message) -> Message | None:
        """Append `message` after `known`, which is all that there is: as it was stored. None when there is more by now.

        `message` must differ from what any other writer would send. Raises StorageError when it is unknown whether it
        was stored, and when the ledger has expired. A cancelled call may or may not have stored it.
        """
        number = next_number(known)
        numbered: Message = {_NUMBER: number, **message}
        body = (json.dumps(numbered).encode(),)
        target = self._storage.target(self._name)
        headers = self._storage.headers(
            (b"content-type", JSON), (PRODUCER_ID, _WRITER), (PRODUCER_EPOCH, b"%d" % number), (PRODUCER_SEQ, b"0")
        )
        try:
            result = await self._storage.append(target, headers, body)
        except StorageError as error:
            result = await retried(lambda: self._storage.append(target, headers, body), error, self._settings.retry)
        if result is AppendResult.ACCEPTED:
            return numbered
        if result in (AppendResult.DUPLICATE, AppendResult.FENCED):
            return numbered if numbered in await self.read() else None
        raise StorageError(f"a ledger cannot be extended: {result.value}")


def next_number(known: Sequence[Message]) -> int:
    """The number of the message that would come after `known`."""
    last = known[-1][_NUMBER] if known else -1
    assert isinstance(last, int)  # noqa: S101  # `read` has checked it
    return last + 1
