"""What a server's answers are taken for, where a real one gives them too seldom to wait for."""

from __future__ import annotations

import asyncio
import json
import resource
from contextlib import asynccontextmanager

import pytest

from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import GivenUpError, GoneError, Server
from megatron_stare.engines.sglang.event_loop import EventLoop
from megatron_stare.errors import UserError

PARAMETERS = {"max_new_tokens": 3, "stop_token_ids": [9]}


@asynccontextmanager
async def answering(body):
    """A server that answers everything so; None for one that never does."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if body is None:
            await reader.read()
        content = json.dumps(body).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    server = Server(f"http://{host}:{port}", max_requests=4)
    try:
        yield server
    finally:
        await server.close()
        listener.close()


def answer(token_ids, finish):
    return {
        "output_ids": token_ids,
        "meta_info": {
            "output_token_logprobs": [[-1.0, token, None] for token in token_ids],
            "finish_reason": finish,
            "weight_versions": [{"version": "1"}],
        },
    }


async def ask(server):
    return await server.generate("id", [1, 2], PARAMETERS, version=1, deadline_s=10.0)


async def generation(body):
    async with answering(body) as server:
        return await ask(server)


@pytest.mark.parametrize(
    ("token_ids", "reason"), [([5, 9], "stop"), ([5, 6, 7], "length"), ([5, 6], "aborted")]
)
def test_a_response_that_ended_as_it_was_stopped_has_ended(token_ids, reason):
    """It would go on behind its end in the next step."""
    found = asyncio.run(generation(answer(token_ids, {"type": "abort"})))
    assert (found.token_ids, found.finish_reason) == (tuple(token_ids), reason)


def test_a_response_cut_short_for_want_of_room_is_an_error_that_names_the_room():
    with pytest.raises(UserError, match="ended a response at 2 tokens, expected room for 3 after"):
        asyncio.run(generation(answer([5, 6], {"type": "length"})))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "not an answer of /generate"),
        (answer([5], {"type": "stop", "matched": "NaN happened"}), "expected a stop token"),
        (answer([5], {"type": "stop", "matched": 5}), "stopped at token 5, an end of the server's"),
        (
            answer([5], {"type": "length"}) | {"output_ids": [6]},
            "log-probs are not those of the tokens",
        ),
    ],
)
def test_what_is_no_answer_is_a_failure_of_the_server(body, message):
    with pytest.raises(ServerFailure, match=message):
        asyncio.run(generation(body))


def test_what_is_given_up_twice_fails_once_with_the_first_reason():
    async def give_up():
        async with answering(None) as server:
            asking = asyncio.create_task(ask(server))
            await asyncio.sleep(0.1)
            for reason in ("first", "second"):
                server.give_up(reason)
            with pytest.raises(GivenUpError, match="first"):
                await asking
            server.give_up("nothing is awaited")

    asyncio.run(give_up())


def test_a_server_that_is_gone_is_told_from_one_that_is_silent():
    async def fail():
        async with answering(None) as server:
            with pytest.raises(ServerFailure, match=r"within 0\.1 s") as silent:
                await server.call("GET", "/model_info", deadline_s=0.1)
        with pytest.raises(ServerFailure, match="no longer among the servers"):
            await server.call("GET", "/model_info", deadline_s=0.1)
        again = Server(server.url, max_requests=1)
        with pytest.raises(GoneError):
            await again.call("GET", "/model_info", deadline_s=5.0)
        await again.close()
        assert not isinstance(silent.value, GoneError)

    asyncio.run(fail())


def test_as_many_connections_may_be_open_as_the_system_allows():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        EventLoop().close()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
