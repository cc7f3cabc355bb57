"""Clients that people use: OpenAI's own, and an agent package on it, which know nothing of us."""

from __future__ import annotations

import asyncio

import pytest

from tests.tool_tokenizer import END_ID
from tests.unit.rollout.agents.stage import play, user
from tests.unit.rollout.agents.test_conversations import TOOL, turns_of
from tests.unit.rollout.workflow.episodes import Speaker, call

openai = pytest.importorskip("openai", reason="`make setup` has not installed it")
agents = pytest.importorskip("agents", reason="`make setup` has not installed openai-agents")


def test_openai_completes_calls_tools_and_goes_on():
    def agent(base_url, api_key, row):
        with openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
            messages = [user(row["prompt"])]
            chat = client.chat.completions
            first = chat.create(model="policy", messages=messages, tools=[TOOL], temperature=0.2)
            (choice,) = first.choices
            assert choice.finish_reason == "tool_calls"
            (made,) = choice.message.tool_calls
            assert made.function.arguments == '{"expression": "6 * 7"}'
            messages += [
                choice.message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": made.id, "content": "42"},
            ]
            last = chat.create(model="policy", messages=messages, tools=[TOOL])
            assert last.choices[0].finish_reason == "stop"
            assert last.usage.completion_tokens == len("It is 42.") + 1
            return float("42" in last.choices[0].message.content)

    sample = play(agent, [call("6 * 7"), "It is 42."])
    assert turns_of(sample)[1::2] == [("model", "call"), ("model", "action")]
    assert sample.turns[-1].reward == 1.0


def test_openai_streams_asynchronously():
    async def agent(base_url, api_key, row):
        async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
            stream = await client.chat.completions.create(
                model="policy",
                messages=[user(row["prompt"])],
                tools=[TOOL],
                stream=True,
                stream_options={"include_usage": True},
            )
            parts = [part async for part in stream]
        deltas = [part.choices[0].delta for part in parts if part.choices]
        (made,) = [one for delta in deltas for one in delta.tool_calls or ()]
        assert (made.index, made.function.name) == (0, "calculator")
        assert parts[-2].choices[0].finish_reason == "tool_calls"
        assert parts[-1].usage.completion_tokens > 9
        return 1

    assert play(agent, [call("6 * 7")]).turns[-1].reward == 1.0


@pytest.mark.parametrize(
    ("error", "change"),
    [
        ("AuthenticationError", {"api_key": "another"}),
        ("NotFoundError", {"model": "gpt-4o"}),
        ("BadRequestError", {"stop": "\n"}),
    ],
)
def test_openai_says_what_is_wrong(error, change):
    found = []

    def agent(base_url, api_key, row):
        asked = {"model": "policy", "messages": [user(row["prompt"])], **change}
        key = asked.pop("api_key", api_key)
        with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
            try:
                client.chat.completions.create(**asked)
            except openai.APIStatusError as refused:
                found.append(type(refused).__name__)
                raise

    assert play(agent, []).finish_reason == "failed"
    assert found == [error]


def test_an_agent_of_openai_agents_calls_its_own_tool():
    """It has a loop, tools and messages of its own."""
    calls = []
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def calculator(expression: str) -> str:
        """Works it out."""
        calls.append(expression)
        return str(eval(expression))

    async def agent(base_url, api_key, row):
        async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
            model = agents.OpenAIChatCompletionsModel("policy", client)
            solver = agents.Agent(
                "Solver", instructions="Use the calculator.", tools=[calculator], model=model
            )
            done = await agents.Runner.run(solver, row["prompt"])
        return float(row["answer"] in done.final_output)

    speaker = Speaker({"6 * 7?": [call("6 * 7"), f"Again: {call('2 * 21')}", "It is 42."]})
    sample = play(agent, (), speaker=speaker)
    assert calls == ["6 * 7", "2 * 21"]
    assert turns_of(sample) == [
        ("observation", ""), ("model", "call"), ("observation", ""), ("model", "call"),
        ("observation", ""), ("model", "action"),
    ]  # fmt: skip
    assert sample.turns[-1].reward == 1.0
    assert "Use the calculator." in sample.turns[0].text
    whole = sample.prompt.token_ids + sample.token_ids
    for before in speaker.asked:
        assert whole[: len(before)] == before
    assert whole[-1] == END_ID
    assert asyncio.iscoroutinefunction(agent)
