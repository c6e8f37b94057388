"""A relay without sockets: transfers over any storage Handler."""

import json
from dataclasses import dataclass, replace

from proxy.base.tasks import Tasks
from proxy.http.message import Handler
from proxy.http.pipe import Budget, Pipe, PipeLimits
from proxy.relay.lease import LeaseSettings
from proxy.relay.mailbox import MailboxSettings
from proxy.relay.membership import Member, MemberSettings, Membership, Solo
from proxy.relay.pump import Pace
from proxy.relay.record import Record, Records, RecordSettings
from proxy.relay.takeover import Endings
from proxy.relay.transfer import Desk, TransferSettings
from proxy.relay.transfers import TransferLimits, Transfers
from proxy.streams.client import Endpoint, Storage
from proxy.streams.retry import RetryPolicy
from proxy.wire.headers import Headers
from tests.kit.bodies import Tap
from tests.kit.memory_storage import MemoryStorage, Stored

__all__ = ["ID", "LEASE", "MAIL", "RECORD", "RETRY", "SETTINGS", "Relay", "Roomy", "ending", "is_append"]

ID = "00000000-0000-4000-8000-000000000000"
RECORD = Record(content_type=b"text/plain", status=200)
RETRY = RetryPolicy(budget=60.0, first_delay=0.05, longest_delay=5.0)
SETTINGS = TransferSettings(
    stream_ttl_seconds=86_400,
    create_retry=replace(RETRY, budget=10.0),
    retry=RETRY,
    close_budget_seconds=600.0,
    close_retry_seconds=60.0,
    pace=Pace(append_interval_seconds=0.005, batch_bytes=65536),
)
LIMITS = TransferLimits(
    max_transfers=10,
    inactivity_timeout_seconds=600.0,
    max_transfer_seconds=3600.0,
    sweep_seconds=0.25,
    recovery_at_once=2,
)
LEASE = LeaseSettings(
    lease_seconds=10,
    lease_renew_seconds=1.0,
    lease_attempt_seconds=2.5,
    lease_request_seconds=1.875,
    lease_look_seconds=2.0,
    lease_misses=3,
    max_lease_bytes=64,
)
MAIL = MailboxSettings(
    mailbox_ttl_seconds=3600, mailbox_listen_seconds=10.0, lease_renew_seconds=1.0, max_mail_bytes=1 << 20
)
MEMBER = MemberSettings(LEASE, MAIL, RETRY)
RECORDS = RecordSettings(
    record_ttl_seconds=172_800, record_cache=100, max_record_bytes=65536, record_refresh_seconds=43_200.0
)
_LIMITS = PipeLimits(1 << 18, Budget(1 << 28))


class Roomy:
    """A store that is never full, or always."""

    def __init__(self, *, is_full: bool = False) -> None:
        self._is_full = is_full

    def has_room(self) -> bool:
        """Whether it takes another stream."""
        return not self._is_full


@dataclass
class Relay:
    """Storage, records and transfers over one Handler."""

    storage: Storage
    records: Records
    endings: Endings
    members: Membership
    transfers: Transfers

    @classmethod
    def over(cls, handler: Handler, *, is_member: bool = False, **changes: object) -> "Relay":
        """A relay that has its storage to itself, or is a member; `changes` to the limits of transfers by field.

        Needs a running loop to be used. A member holds no lease before it is opened.
        """
        storage = Storage(Endpoint(handler, b"/v1/streams/", Headers(), 10.0, 2, "http://storage/v1/streams/"))
        records = Records(storage, RETRY, RECORDS)
        endings = Endings(storage, records, RETRY)
        members: Membership = Member(storage, MEMBER) if is_member else Solo(Roomy())
        desk = Desk(storage, records, endings, SETTINGS, Tasks("transfer"))
        limits = replace(LIMITS, **changes)  # type: ignore[arg-type]  # each by its field's name
        return cls(storage, records, endings, members, Transfers(desk, limits))

    async def start(self, body: Tap | Pipe, stream_id: str = ID, record: Record = RECORD) -> None:
        """As the create operation does: with a place held."""
        self.transfers.reserve()
        try:
            record = replace(record, owner=await self.members.owner())
            await self.transfers.start(stream_id, body.body if isinstance(body, Tap) else body, record)
        finally:
            self.transfers.release()

    async def aclose(self) -> None:
        """End everything."""
        await self.transfers.aclose(1000.0)


def ending(memory: MemoryStorage, stream_id: str = ID) -> tuple[bytes, bool, str | None]:
    """What a stream holds, whether it is closed, and the outcome that its record holds."""
    stream, record = memory.named(stream_id), memory.named(f"{stream_id}.record")
    assert isinstance(stream, Stored)
    outcomes = [json.loads(line).get("outcome") for line in record.data.splitlines()[1:]] if record else []
    return stream.data, stream.is_closed, outcomes[-1] if outcomes else None


def is_append(request: object) -> bool:
    """Whether a request is an append to a data stream."""
    target, method = getattr(request, "target", b""), getattr(request, "method", b"")
    return method == b"POST" and not target.endswith(b".record")
