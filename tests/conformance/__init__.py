"""The protocol as a caller sees it, over HTTP alone, against any proxy.

    PROXY_CONFORMANCE_URL=http://… PROXY_CONFORMANCE_SECRET=… pytest tests/conformance

Without the variable a proxy and a storage server are started once for the session. The proxy must allow
`http://localhost:*/**` and reach this machine's loopback: the upstream runs inside the tests.
"""
