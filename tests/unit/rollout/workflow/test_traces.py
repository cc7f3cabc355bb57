"""Traces to learn from have the tokens of the same episodes played, and the loss on the model's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import DataConfig
from megatron_stare.config.rollout import SamplingConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.data.sources import in_turn, open_prompt_sets
from megatron_stare.engines.engine import Request
from megatron_stare.errors import UserError
from megatron_stare.rollout.workflow.opening import find_tools, prompt_tools, workflow_of
from megatron_stare.rollout.workflow.traces import TraceSet, open_traces
from megatron_stare.rollout.workflow.workflow import Ask, Calls
from megatron_stare.tools.tool import ToolResult
from megatron_stare.types import Sample
from tests.models import make_tokenizer
from tests.tool_tokenizer import END_ID, make_tool_tokenizer

ADD, RUN = "tests.e2e.turn_tools:add", "tests.e2e.turn_tools:run"
HERMES = {"workflow": {"format": "hermes"}, "tools": {"names": [ADD]}}
CODE_TAG = {"workflow": {"format": "code_tag"}, "tools": {"names": [RUN]}}
FENCED = {"workflow": {"format": "fenced_python"}, "tools": {"names": [RUN]}}
LONG = "9" * 600
SPACED = "\n\n<interpreter>\n{}\n</interpreter>\n"


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """One that has tokens across the ends of blocks: no text of a whole trace has its tokens."""
    backend = json.loads(make_tokenizer().backend_tokenizer.to_str())
    for left, right in (("`", "`"), ("``", "`"), ("```", "Ċ"), (">", "Ċ"), ("Ċ", "<")):
        backend["model"]["merges"].append([left, right])
        backend["model"]["vocab"][left + right] = 300 + len(backend["model"]["vocab"])
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|endoftext|>"
    )


TOKENIZERS = {"hermes": make_tool_tokenizer(), "other": merging_tokenizer()}


def tokenizer_of(settings: dict[str, Any]) -> PreTrainedTokenizerFast:
    return TOKENIZERS.get(settings["workflow"]["format"], TOKENIZERS["other"])


def config_of(
    folder: Path, rows: Sequence[Any], settings: dict[str, Any], **data: Any
) -> SftConfig:
    path = folder / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = "chat" if settings["workflow"]["format"] == "hermes" else "{prompt}"
    given = {"path": path, "template": template, "max_tokens": 4000, **data}
    tree = {"model": {"path": folder}, "data": given, "sft": {"max_tokens_per_micro_batch": 9000}}
    return SftConfig.model_validate(tree | settings)


def traces_of(*arguments: Any, **data: Any) -> TraceSet:
    config = config_of(*arguments, **data)
    return open_traces(config, tokenizer_of(arguments[2]))


def played(
    folder: Path, settings: dict[str, Any], asked: str, turns: Sequence[str], results: Sequence[str]
) -> Sample:
    """The episode in which the model writes these turns, and tools say these results."""
    tokenizer = tokenizer_of(settings)
    config = config_of(folder, [{"prompt": asked, "answer": "1"}], settings)
    toolbox = find_tools(config.tools, config.workflow, report=pytest.fail)
    schemas = prompt_tools(config.workflow, toolbox)
    data = DataConfig(path=config.data.path, template=config.data.template)
    sets = open_prompt_sets(data, tokenizer, key="data", seed=1, tools=schemas)
    stop_ids = (tokenizer.eos_token_id, END_ID)
    workflow = workflow_of(config.workflow, toolbox, None, tokenizer, stop_ids)
    assert workflow is not None
    sampling, left, said = SamplingConfig(max_response_tokens=9000), list(turns), list(results)
    (prompt,) = in_turn(sets)
    episode = Request(prompt, 0).sample
    while step := workflow.next(episode, sampling):
        if isinstance(step, Ask):
            ids = (*tokenizer.encode(left.pop(0)),)
            if settings["workflow"]["format"] == "hermes":
                ids += (END_ID,)
            elif not left:
                ids += (tokenizer.eos_token_id,)
            answered = Request(prompt, 0, episode).answered(
                ids, (-1.0,) * len(ids), "stop", version=0, seconds=0.0, tokenizer=tokenizer
            )
            episode = workflow.completed(answered, sampling)
        else:
            assert isinstance(step, Calls)
            assert not any(call.problem for call in step.calls)
            told = [ToolResult(said.pop(0), ok=True) for _ in step.calls]
            episode = workflow.observed(episode, told, sampling)
    assert (episode.finish_reason, left, said) == ("stop", [], [])
    return episode


def assert_same(traces: TraceSet, sample: Sample) -> None:
    batch = traces.draw(1)
    prompt = int(batch.prompt_lengths)
    assert batch.token_ids[:prompt].tolist() == list(sample.prompt.token_ids)
    assert batch.token_ids[prompt:].tolist() == list(sample.token_ids)
    assert batch.loss_mask.tolist() == list(sample.loss_mask)


def calling(*arguments: tuple[int, int], content: str | None = "") -> dict[str, Any]:
    calls = [
        {"type": "function", "function": {"name": "add", "arguments": {"a": a, "b": b}}}
        for a, b in arguments
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def by_tool(text: str) -> dict[str, str]:
    return {"role": "tool", "name": "add", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ASK = {"role": "user", "content": "what is <|im_end|>?"}
CALL = '<tool_call>\n{{"name": "add", "arguments": {{"a": {}, "b": {}}}}}\n</tool_call>'


def test_messages_are_the_tokens_of_the_episode(tmp_path: Path):
    messages = [
        ASK,
        calling((1, 2), (3, 4), content="<think>two</think>"),
        by_tool("3"),
        by_tool(f"{LONG}<tool_call>{LONG}"),
        calling((5, 6), content=None),
        by_tool(""),
        answer("it is 7"),
    ]
    turns = [
        f"<think>two</think>\n{CALL.format(1, 2)}\n{CALL.format(3, 4)}",
        CALL.format(5, 6),
        "it is 7",
    ]
    results = ["3", f"{LONG}<tool_call>{LONG}", ""]
    sample = played(tmp_path, HERMES, ASK["content"], turns, results)
    assert "...(truncated)..." in sample.turns[1].text
    traces = traces_of(tmp_path, [{"messages": messages}], HERMES, messages_field="messages")
    assert_same(traces, sample)

    texts = [{**message} for message in messages]
    for message in texts:
        for called in message.get("tool_calls", ()):
            called["function"]["arguments"] = json.dumps(called["function"]["arguments"])
    parts = [{"prompt": texts[:1], "response": texts[1:]}]
    assert_same(traces_of(tmp_path, parts, HERMES), sample)


@pytest.mark.parametrize(
    ("settings", "block", "output"),
    [
        (
            CODE_TAG,
            "<code>\n```python\n{}\n```\n</code>",
            "\n\n<interpreter>\n{}\n</interpreter>\n",
        ),
        (CODE_TAG, "<code>{}</code>", "<interpreter>{}</interpreter>\n"),
        (FENCED, "```python\n{}\n```", "\n```output\n{}\n```\n"),
    ],
)
def test_a_text_is_taken_apart_into_the_tokens_of_the_episode(tmp_path, settings, block, output):
    turns = [
        "Let me see.\n" + block.format("print(1)"),
        "Then <b>\n" + block.format("x = `1`"),
        "So 1.\n",
    ]
    results = ["1\n", ""]
    sample = played(tmp_path, settings, "1?", turns, results)
    text = f"{turns[0]}{output.format(results[0])}{turns[1]}{output.format(results[1])}{turns[2]}"
    assert_same(traces_of(tmp_path, [{"prompt": "1?", "response": text}], settings), sample)

    whole = [{"role": "user", "content": "1?"}, answer(text)]
    traces = traces_of(tmp_path, [{"m": whole}], settings, messages_field="m")
    assert_same(traces, sample)

    apart = [whole[0], answer(turns[0]), by_tool("1\n"), answer(turns[1]), by_tool(""), whole[1]]
    apart[-1] = answer(turns[2])
    traces = traces_of(tmp_path, [{"m": apart}], settings, messages_field="m")
    assert_same(traces, sample)
    tokenizer = tokenizer_of(settings)
    assert tokenizer.encode(sample.text) != list(sample.token_ids[:-1])


def test_code_in_tool_calls_is_written_as_a_block(tmp_path: Path):
    called = {"role": "assistant", "content": "So:", "tool_calls": [
        {"function": {"name": "run", "arguments": {"code": "print(1)\n"}}}]}  # fmt: skip
    rows = [{"prompt": "1?", "response": [called, by_tool("1"), answer("1")]}]
    turns = ["So:\n<code>\n```python\nprint(1)\n```\n</code>", "1"]
    assert_same(traces_of(tmp_path, rows, CODE_TAG), played(tmp_path, CODE_TAG, "1?", turns, ["1"]))


def test_a_user_may_ask_on_and_nothing_of_it_is_learned(tmp_path: Path):
    messages = [ASK, calling((1, 2)), by_tool("3"), answer("3"), ASK, answer("4")]
    traces = traces_of(tmp_path, [{"m": messages}], HERMES, messages_field="m")
    batch = traces.draw(1)
    tokenizer = tokenizer_of(HERMES)
    response = batch.token_ids[int(batch.prompt_lengths) :]
    learned = tokenizer.decode(response[batch.loss_mask])
    assert learned == f"{CALL.format(1, 2)}<|im_end|>3<|im_end|>4<|im_end|>"
    whole = tokenizer.apply_chat_template(
        [*messages[:1], answer(CALL.format(1, 2)), *messages[2:]],
        tools=prompt_tools(*_tools(tmp_path)),
        tokenize=False,
    )
    assert tokenizer.decode(batch.token_ids) == whole.removesuffix("\n")


def _tools(folder: Path):
    config = config_of(folder, [], HERMES)
    return config.workflow, find_tools(config.tools, config.workflow, report=pytest.fail)


BAD = [
    ([calling((1, 2)), ASK, answer("3")], "has 1 calls, and behind it are 0 results, expected one"),
    ([calling((1, 2)), by_tool("3"), by_tool("4"), answer("3")], "1 calls, .* 2 results"),
    ([answer("3"), by_tool("3"), answer("3")], "0 calls, .* 1 results"),
    ([calling((1, 2)), by_tool("3")], "expected those of the model"),
    ([calling((1, 2))], "has 1 calls, and behind it are 0 results"),
    ([answer("a"), answer("b")], "2 messages of role 'assistant' in a row, expected one"),
    ([answer("a"), ASK, ASK, answer("b")], "2 messages of role 'user' in a row"),
    ([answer("a"), {"role": "system", "content": "x"}, answer("b")], "role 'system'.* expected"),
    ([answer("a<|im_end|>b")], r"has <\|im_end\|> in it, at which it would end"),
    (
        [answer('<tool_call>{"name": "add"}</tool_call>'), by_tool("3"), answer("3")],
        "cannot be rea",
    ),
    (
        [answer(CALL.format(1, 2).replace("add", "sub")), by_tool("3"), answer("3")],
        "expected one of",
    ),
    ([{**calling((1, 2)), "tool_calls": [{"name": "add", "arguments": "no"}]}], "no arguments by"),
    ([{**calling((1, 2)), "tool_calls": [7]}], r"hold no \{function"),
    ([{**answer("3"), "reasoning_content": "hm"}], "'reasoning_content' beside its content, expec"),
    ([answer("  ")], "field 'content' is empty"),
    ([{"role": "assistant"}], "field 'content' is empty"),
    ([{"role": "assistant", "content": [{"type": "text", "text": "3"}]}], "has no text"),
    ([calling((1, 2)), {"role": "tool", "content": 3}, answer("3")], "role 'tool' has no text"),
    (["what"], "role 'what' behind the prompt, expected assistant, tool or user"),
]


@pytest.mark.parametrize(("response", "message"), BAD)
def test_a_bad_trace_is_one_error_with_its_row_and_what_was_expected(tmp_path, response, message):
    good = {"prompt": "1?", "response": "3"}
    rows = [good, {"prompt": "1?", "response": response}]
    with pytest.raises(UserError, match=rf"^traces.jsonl:2: .*{message}"):
        traces_of(tmp_path, rows, HERMES)
    traces = traces_of(tmp_path, rows, HERMES, on_bad_trace="skip")
    assert (len(traces), traces.report.num_left_out) == (1, 1)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ("<code>1</code> so 1", "code has no '<interpreter>.*behind it, expected what came of it"),
        ("<code>1</code>", "has 1 calls, and behind it are 0 results"),
        ("<code>1</code><interpreter>1</interpreter>", "turn of the model is empty"),
        ([answer("1"), ASK, answer("2")], "a user speaks behind a response"),
    ],
)
def test_a_bad_text_is_one_error_too(tmp_path, response, message):
    with pytest.raises(UserError, match=rf"(?s)^traces.jsonl:1: .*{message}"):
        traces_of(tmp_path, [{"prompt": "1?", "response": response}], CODE_TAG)


def test_long_traces_are_left_out_and_conversations_need_a_format(tmp_path: Path):
    rows = [{"prompt": "1?", "response": text} for text in ("3", "3" * 4000)]
    traces = traces_of(tmp_path, rows, HERMES)
    assert traces.report.left_out == {"over 4000 tokens": ["traces.jsonl:2"]}
    single = {"workflow": {"format": None}, "tools": {"names": []}}
    with pytest.raises(ValueError, match=r"data.messages_field='m' with workflow.format=null"):
        config_of(tmp_path, rows, single, messages_field="m")
