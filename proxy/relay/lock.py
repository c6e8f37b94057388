"""A named lock in storage: of all instances on it, one holds the name; it gives it back, or settles it for good.

Owns the form of the lock, a ledger at a name that the caller chooses, and the rules by which it changes hands:

- FREE: anybody may claim it. A claim says which instance makes it, under a token that is used once, and a note.
- HELD: nobody else may claim it while the instance that holds it lives. Once that instance is dead, anybody may.
- SETTLED: it is not claimed while what it was settled for lasts, which only the caller can tell.

Each change is one message in the ledger, whose writer knew every message before it (`streams.ledger`). So two that
claim at once cannot both succeed, and a holder that settles or gives back cannot do so once it has been succeeded,
however late its request arrives: the epoch that it was sent under has passed. No message is ever deleted, and neither
is the ledger: a deletion cannot be made to depend on what is there, so one that arrived late could remove a claim that
came after. A lock that is not used any more expires.

What a crash leaves: before the claim was stored, nothing. Afterwards a claim whose holder is dead, as soon as its lease
has run out (`relay.lease`); the next claim succeeds it and learns which token it has succeeded, so that its maker can
clear up what was made under it. After it was settled or given back, nothing.

The holder must stop its work before others can think it dead. `membership.licensed` sees to that.
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

    token: names this claim among all.
    owner: the instance that made it.
    note: what the caller wrote beside it.
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

    `state` is right as of the last request. `claim`, `settle` and `release` return False, and bring `state` up to date,
    when somebody else has changed it since. They raise StorageError when it is unknown whether they took effect, and
    may be repeated then. A cancelled call, too, may take effect at any later time, until `release` has returned True.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._messages: Sequence[Message] = ()
        self._claimed = -1  # the number under which a claim was last sent
        self.state: State = FREE

    async def open(self) -> None:
        """See how it stands; makes the lock when there is none. Raises StorageError."""
        self._see(await self._ledger.open())

    async def look(self) -> None:
        """See how it stands now. Raises StorageError."""
        self._see(await self._ledger.read())

    async def claim(self, token: str, owner: str, note: str) -> bool:
        """Hold the lock from now on. The caller has made sure that `state` allows it."""
        self._claimed = next_number(self._messages)
        return await self._change({"claim": token, "owner": owner, "note": note})

    async def settle(self, token: str) -> bool:
        """Settle the lock that is held under `token`; True also when it was settled so before."""
        if isinstance(self.state, Held) and self.state.token == token:
            return await self._change({"settle": token})
        return isinstance(self.state, Settled) and self.state.token == token

    async def release(self, token: str) -> bool:
        """Give back the lock if it is held under `token`; True when it is not, and never will be.

        A claim whose request was cancelled or lost may still be on its way. Then the release takes the number that the
        claim was sent under, so that storage refuses the claim when it comes.
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
    """What the messages come to. One that does not follow from those before it changes nothing."""
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
