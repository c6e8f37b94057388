"""Work that waits for its turn."""

import asyncio
import functools

from proxy.base.turns import Turns
from tests.kit.virtual_time import in_virtual_time


@in_virtual_time
async def test_calls_are_made_in_order_some_at_a_time_with_a_pause_between() -> None:
    turns, made, loop = Turns(2, 10.0), list[tuple[float, int]](), asyncio.get_running_loop()
    began = loop.time()
    for number in range(5):
        turns.wait(functools.partial(lambda each: made.append((loop.time() - began, each)), number))
    assert not made
    await asyncio.sleep(100)
    assert [each for _, each in made] == [0, 1, 2, 3, 4]
    assert [round(at) for at, _ in made] == [0, 0, 10, 10, 20]


@in_virtual_time
async def test_a_call_after_a_pause_waits_for_nothing() -> None:
    turns, made, loop = Turns(1, 10.0), list[float](), asyncio.get_running_loop()
    for _ in range(2):
        asked = loop.time()
        turns.wait(lambda: made.append(loop.time() - asked))  # noqa: B023  # it is made before the next one is bound
        await asyncio.sleep(11)
    assert [round(delay) for delay in made] == [0, 0]


@in_virtual_time
async def test_a_call_may_wait_again_and_takes_its_place_behind_the_others() -> None:
    turns, made = Turns(1, 1.0), list[str]()

    def again(name: str, left: int) -> None:
        made.append(name)
        if left:
            turns.wait(lambda: again(name, left - 1))

    turns.wait(lambda: again("a", 2))
    turns.wait(lambda: again("b", 2))
    await asyncio.sleep(20)
    assert "".join(made) == "ababab"


@in_virtual_time
async def test_a_call_that_fails_does_not_stop_the_others() -> None:
    turns, made, failures = Turns(2, 1.0), list[int](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    turns.wait(lambda: 1 / 0)  # type: ignore[arg-type]  # it returns nothing: it raises
    turns.wait(lambda: made.append(1))
    await asyncio.sleep(5)
    assert (made, len(failures)) == ([1], 1)
