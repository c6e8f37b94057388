"""The scenarios, in the order in which `all` runs them."""

from bench.scenarios.bodies import BULK, CREATE, DENSE, PUMP
from bench.scenarios.limits import HELD, MAX_BYTES, SLOW_STORAGE
from bench.scenarios.live import GROWTH, TOKENS
from bench.scenarios.plan import Scenario
from bench.scenarios.readers import FANOUT, TAIL
from bench.scenarios.store import STORE
from bench.scenarios.tls import TLS

__all__ = ["SCENARIOS", "Scenario"]

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (PUMP, CREATE, BULK, DENSE, TOKENS, TAIL, FANOUT, MAX_BYTES, HELD, SLOW_STORAGE, GROWTH, STORE, TLS)
}
