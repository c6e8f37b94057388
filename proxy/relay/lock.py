"""A named lock in storage: one instance holds it, and then gives it back or settles it for good.

Owns the form of the lock, a ledger at a name that the caller chooses, and the rules by which it changes hands:

- FREE: any instance may claim it. A claim names its instance, a token that is used once, and a note.
- HELD: no other instance may claim it while its holder lives. When the holder is dead, any instance may.
- SETTLED: no instance may claim it while the thing exists that it was settled for. Only the caller knows that.

Each change is one message in the ledger. Storage accepts it only from a writer that has seen every message before it
(`streams.ledger`). So of two claims at the same time only one succeeds. And a holder whose claim was taken over can no
longer settle it or give it back, however late its request arrives: the epoch of that request has passed. Messages and
ledger are never deleted, because a deletion cannot depend on what is stored: one that arrived late could remove a later
claim. A lock that is no longer used expires.

What a crash leaves: before the claim was stored, nothing. Afterwards a claim whose holder is dead as soon as its lease
has run out (`relay.lease`). The next claim replaces it and learns its token, so that the new holder can remove what was
made under that token. After the lock was settled or given back, nothing.

The holder must stop its work before others can count it as dead. `membership.licensed` stops it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.streams.ledger import Ledger, Message, next_number

__all__ = ["FREE", "Free", "Held", "Lock", "Settled", "State"]


@dataclass(frozen=True, slots=True)
class Free:
    """Nobody holds the lock."""


@dataclass(frozen=True, slots=True)
class Held:
    """An instance holds the lock.

    token: identifies this claim.
    owner: the instance that made the claim.
    note: text that the caller stored with the claim.
    """

    token: str
    owner: str
    note: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The lock was settled by the claim with this token and note."""

    token: str
    note: str


State = Free | Held | Settled
FREE = Free()


class Lock:
    """One lock, as this process last saw it. Not for concurrent use: each user of a name has a `Lock` of its own.

    `state` is as of the last request. `claim`, `settle` and `release` return False, and update `state`, when another
    instance has changed the lock since. They raise StorageError when it is unknown whether they took effect; then they
    may be repeated. A cancelled call may take effect at any later time, until `release` has returned True.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._messages: Sequence[Message] = ()
        self._claimed = -1  # the number under which a claim was last sent
        self.state: State = FREE

    async def open(self) -> None:
        """Read the state; create the lock when there is none. Raises StorageError."""
        self._see(await self._ledger.open())

    async def look(self) -> None:
        """Read the state. Raises StorageError."""
        self._see(await self._ledger.read())

    async def claim(self, token: str, owner: str, note: str) -> bool:
        """Claim the lock; whether it is held now. The caller has checked that `state` allows it."""
        self._claimed = next_number(self._messages)
        return await self._change({"claim": token, "owner": owner, "note": note})

    async def settle(self, token: str) -> bool:
        """Settle the lock that is held under `token`. True also when the same claim has settled it before."""
        if isinstance(self.state, Held) and self.state.token == token:
            return await self._change({"settle": token})
        return isinstance(self.state, Settled) and self.state.token == token

    async def release(self, token: str) -> bool:
        """Give back the lock if it is held under `token`. True when it is not held so, and never will be.

        A claim whose request was cancelled or lost may still be on its way. Then the release uses the number of that
        claim, so that storage refuses the claim when it arrives.
        """
        is_held = isinstance(self.state, Held) and self.state.token == token
        if is_held or next_number(self._messages) <= self._claimed:
            return await self._change({"release": token})
        return True

    async def _change(self, message: Message) -> bool:
        stored = await self._ledger.extend(self._messages, message)
        if stored is not None:
            self._see([*self._messages, stored])
            return True
        await self.look()
        return False

    def _see(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self.state = _state(messages)


def _state(messages: Sequence[Message]) -> State:
    """The state after `messages`. A message that its predecessors do not allow changes nothing."""
    state: State = FREE
    for message in messages:
        if "claim" in message:
            state = Held(str(message["claim"]), str(message.get("owner")), str(message.get("note")))
        elif isinstance(state, Held):
            if message.get("settle") == state.token:
                state = Settled(state.token, state.note)
            elif message.get("release") == state.token:
                state = FREE
    return state
