"""Which servers are asked whether they generate, and when."""

import asyncio

import pytest

from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server
from megatron_stare.engines.sglang.health import HealthWatch


class Silent(Server):
    """One whose health does not come, or comes at once."""

    def __init__(self, *, answers: bool) -> None:
        super().__init__("http://127.0.0.1:9", max_requests=1)
        self.is_routable = True
        self.answers = answers
        self.num_asked = 0

    async def check_health(self, version, *, deadline_s):
        self.num_asked += 1
        if not self.answers:
            await asyncio.sleep(deadline_s)
            raise ServerFailure("silent")
        self.last_heard = asyncio.get_running_loop().time()


async def watched(server, seconds, *, hears_every_s=None):
    """What is told of a server, with the time, when the period is 0.2 s and the deadline 0.1 s."""
    clock = asyncio.get_running_loop().time
    start, told = clock(), []
    watch = HealthWatch(
        lambda: [server],
        lambda lost, reason: told.append((clock() - start, lost, reason)),
        every_s=0.2,
        deadline_s=0.1,
    )
    watching = asyncio.create_task(watch.run())
    while clock() - start < seconds:
        await asyncio.sleep(hears_every_s or seconds)
        if hears_every_s:
            server.last_heard = clock()
    watching.cancel()
    await server.close()
    return told


def test_a_server_that_hangs_is_told_of_within_the_period_and_the_deadline():
    server = Silent(answers=False)
    (seconds, lost, reason), *_ = asyncio.run(watched(server, 0.6))
    assert 0.2 < seconds < 0.5
    assert (lost, reason) == (server, "silent")


def test_one_that_shows_that_it_generates_is_asked_once_a_period():
    server = Silent(answers=True)
    assert asyncio.run(watched(server, 1.0)) == []
    assert server.num_asked == pytest.approx(5, abs=2)


def test_one_that_answers_requests_is_not_asked():
    server = Silent(answers=False)
    assert asyncio.run(watched(server, 0.6, hears_every_s=0.05)) == []
    assert server.num_asked == 0


def test_one_that_was_lost_in_another_way_is_not_told_of():
    server = Silent(answers=False)
    server.is_routable = False
    assert asyncio.run(watched(server, 0.4)) == []
