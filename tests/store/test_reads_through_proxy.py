"""The public conformance suite once more, its reads through the proxy: what storage promises a reader, we keep.

The proxy makes its streams itself, from upstreams; the suite wants to write. So its writes go to storage directly,
under ids that the proxy takes, and its reads to the proxy's own URLs (tests/js/proxied-conformance.test.js).
"""

import json
import secrets
import time
import uuid
from pathlib import Path

import httpx

from proxy.policy.auth import Keyring
from proxy.relay.lease import lease_name
from proxy.relay.record import Record
from tests.kit.proxy_process import ProxyProcess
from tests.store.process import StoreProcess
from tests.store.public_suite import described, run_public_suite
from tests.store.serve import LONG_POLL_SECONDS

READING = {
    "Basic Stream Operations",
    "Append Operations",
    "Read Operations",
    "Long-Poll Operations",
    "HTTP Protocol",
    "Browser Security Headers",
    "Content-Type Validation",
    "HEAD Metadata",
    "Offset Validation and Resumability",
    "Protocol Edge Cases",
    "Long-Poll Edge Cases",
    "HEAD Metadata Edge Cases",
    "TTL Expiration Behavior",
    "Caching and ETag",
    "Chunking and Large Payloads",
    "Read-Your-Writes Consistency",
    "SSE Mode",
    "JSON Mode",
    "Property-Based Tests (fast-check) > Byte-Exactness Property",
    "Property-Based Tests (fast-check) > Operation Sequence Properties",
    "Property-Based Tests (fast-check) > Immutability Properties",
    "Property-Based Tests (fast-check) > Offset Validation Properties",
    "Property-Based Tests (fast-check) > Concurrent Writer Stress Tests",
    "Property-Based Tests (fast-check) > State Hash Verification",
    "Stream Closure > HEAD with Stream Closure",
    "Stream Closure > Read Closed Streams (Catch-up)",
    "Stream Closure > Long-poll with Stream Closure",
    "Stream Closure > SSE with Stream Closure",
    "Stream Closure > Edge Cases",
    "Fork - Reading",
    "Fork - Recursive",
    "Fork - Live Modes",
    "Fork - Deletion and Lifecycle",
    "Fork - JSON Mode",
    "Fork - Edge Cases",
}

# What they look at is storage's answer to a write; tests/store/test_conformance.py runs them.
WRITING = {
    "TTL and Expiry Validation",
    "Case-Insensitivity",
    "TTL and Expiry Edge Cases",
    "Property-Based Tests (fast-check) > Sequence Ordering Properties",
    "Idempotent Producer Operations",
    "Stream Closure > Create with Stream-Closed",
    "Stream Closure > Close Operations",
    "Stream Closure > Idempotent Producers with Stream Closure",
    "Fork - Creation",
    "Fork - Appending",
    "Fork - TTL and Expiry",
    "Reserved subscription APIs",
}

# Storage says 410 of a stream that is deleted and still forked; the proxy has one word for a stream that is not there,
# 404 STREAM_NOT_FOUND (docs/protocol.md, Read). Once that differs a case looks no further.
GONE = "expected 404 to be 410"
# A write after all: storage names the stream by the id that stands for the suite's path.
RENAMED = "expected false to be true"

# Cases that do not hold, each with the only way in which it may fail.
OTHERWISE = {
    ("Protocol Edge Cases", "should return Location header on 201"): RENAMED,
    ("Fork - Deletion and Lifecycle", "should soft-delete source while fork exists — fork still reads"): GONE,
    ("Fork - Deletion and Lifecycle", "should return 410 for GET on soft-deleted source"): GONE,
    ("Fork - Deletion and Lifecycle", "should cascade GC when last fork is deleted"): GONE,
    ("Fork - Deletion and Lifecycle", "should cascade GC through three levels"): GONE,
    ("Fork - Deletion and Lifecycle", "should preserve data when deleting middle of chain"): GONE,
}

STREAMS = 2_000  # four times what the suite makes
OWNER = "0" * 32
"""The instance that made the streams. It has a lease: streams of an instance without one are ended by their readers."""
CONTENT_TYPE = "application/x-recorded"


def plan(proxy: ProxyProcess, store: StoreProcess, keyring: Keyring) -> dict[str, object]:
    """Where the suite's requests go, and the pre-signed URLs of the streams that it will make."""
    expires = int(time.time()) + 3_600
    ids = [str(uuid.uuid4()) for _ in range(STREAMS)]
    return {
        "proxy": proxy.url,
        "storage": f"http://127.0.0.1:{store.port}/v1/streams/",
        "longPollMs": int(LONG_POLL_SECONDS * 1000),
        "record": Record(content_type=CONTENT_TYPE.encode(), status=200, owner=OWNER).encode().decode(),
        "contentType": CONTENT_TYPE,
        "presigned": [(name, f"expires={expires}&signature={keyring.sign(name, expires)}") for name in ids],
    }


def test_every_case_of_the_public_suite_that_reads_holds_through_the_proxy(tmp_path: Path) -> None:
    secret = secrets.token_urlsafe(24)
    with StoreProcess(tmp_path / "store") as store:
        lease = f"http://127.0.0.1:{store.port}/v1/streams/{lease_name(OWNER)}"
        httpx.put(lease, headers={"Content-Type": "application/json", "Stream-TTL": "3600"}).raise_for_status()
        args = ["--durable-streams-url", f"http://127.0.0.1:{store.port}", "--allow", "http://localhost:*/**"]
        with ProxyProcess(args, env={"PROXY_SECRET": secret}) as proxy:
            (tmp_path / "plan.json").write_text(json.dumps(plan(proxy, store, Keyring([secret]))))
            environment = {"PLAN": str(tmp_path / "plan.json"), "SERVICE_SECRET": secret}
            cases = run_public_suite("proxied-conformance.test.js", environment, tmp_path, groups=READING)
            assert proxy.stop() == 0
            assert "Traceback" not in proxy.output, proxy.output
        store.stop()

    assert {case.group for case in cases} == READING | WRITING, "the suite has other groups: which of them read?"
    reading = [case for case in cases if case.group in READING]
    unexpected = [case for case in reading if case.status != "passed" and (case.group, case.title) not in OTHERWISE]
    assert not unexpected, described(unexpected)
    failed = [case for case in reading if case.status == "failed"]
    assert {(case.group, case.title) for case in failed} == OTHERWISE.keys(), described(failed)
    otherwise = [case for case in failed if OTHERWISE[case.group, case.title] not in case.message]
    assert not otherwise, described(otherwise)
    assert {case.group for case in cases if case.status == "passed"} == READING
