"""Calls as models write them, found in their tokens."""

import json

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from megatron_stare.errors import UserError
from megatron_stare.rollout.workflow.formats import (
    Hermes,
    code_tag,
    cut_middle,
    fenced_python,
    tokens_that_end,
)
from tests.models import EOS_ID, make_tokenizer
from tests.tool_tokenizer import END_ID, make_tool_tokenizer

TOKENIZER = make_tool_tokenizer()
HERMES = Hermes(TOKENIZER, ())


def read(text: str, written=HERMES, *, end: int = END_ID):
    return written.read([*TOKENIZER.encode(text), end], can_call=True)


def calls_of(text: str) -> list[tuple]:
    return [(call.name, call.arguments) for call in read(text).calls if not call.problem]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (
            'let me compute <tool_call>\n{"name": "code_interpreter", "arguments": '
            '{"code": "print(1+1)"}}\n</tool_call>',
            [("code_interpreter", {"code": "print(1+1)"})],
        ),
        (
            '<tool_call>{"name": "a", "arguments": {}}</tool_call>'
            '<tool_call>{"name": "b", "arguments": {}}</tool_call>',
            [("a", {}), ("b", {})],
        ),
        ('<tool_call>{"name": "a", "arguments": {"code": "x\ny"}}</tool_call>', []),
        ('<tool_call>{"name": "a"}</tool_call>', []),
        ('<tool_call>{"name": "a", "arguments": {}}', []),
        ("the answer is \\boxed{2}", []),
    ],
)
def test_hermes_calls(text, calls):
    """The cases of METHODS: raw line ends in JSON, a missing key and a missing end are no calls."""
    assert calls_of(text) == calls


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<tool_call>{'name': 1}</tool_call>", "holds no valid JSON"),
        ('<tool_call>["a"]</tool_call>', 'holds no {"name": ..., "arguments": {...}}'),
        ('<tool_call>{"name": 1, "arguments": {}}</tool_call>', "holds no"),
        ("<tool_call>" + "[" * 20_000 + "</tool_call>", "holds no valid JSON"),
        ("<tool_call>", "has no </tool_call> behind it"),
        ("</tool_call>", None),
        ("a<tool_call>b<tool_call>{}</tool_call>", "holds no"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(text, problem):
    problems = [call.problem for call in read(text).calls]
    assert len(problems) == (problem is not None)
    assert all(problem in found for found in problems)


def test_only_tokens_are_tags_of_calls():
    """Not their text, which a tool may have said, and the model says again."""
    spelled = TOKENIZER.encode("<tool_cal") + TOKENIZER.encode('l>{"name": "a", "arguments": {}}')
    assert TOKENIZER.decode(spelled).startswith("<tool_call>{")
    assert HERMES.read(spelled, can_call=True).calls == ()


def test_a_tokenizer_without_the_tags_is_refused():
    with pytest.raises(UserError, match="<tool_call> is 11 tokens of the tokenizer"):
        Hermes(make_tokenizer(), ())


@pytest.mark.parametrize(
    ("make", "text", "code"),
    [
        (fenced_python, "So:\n```python\nprint(1)\n```", "print(1)\n"),
        (fenced_python, "```py\na = '''x'''\n```", "a = '''x'''\n"),
        (fenced_python, "```\nprint(1)\n```", None),
        (fenced_python, "```json\n{}\n```", None),
        (fenced_python, "``", None),
        (fenced_python, "```json\n{}\n```\n```python\n2\n```", "2\n"),
        (code_tag, "<code>\n```python\nprint(1)\n```\n</code>", "print(1)\n"),
        (code_tag, "<code>print(1)</code>", "print(1)"),
        (code_tag, "x > 3", None),
        (code_tag, "a </code>", None),
    ],
)
def test_code_in_the_middle_of_a_response(make, text, code):
    """A turn that stops without a block goes on; a block is a call."""
    written = make(TOKENIZER, "python")
    reading = written.read(TOKENIZER.encode(text), can_call=True)
    if code is None:
        assert (reading.calls, reading.goes_on) == ((), text[-1] in "`>")
    else:
        assert [call.arguments for call in reading.calls] == [{"code": code}]


def test_code_is_a_call_where_it_stops_a_turn_and_not_at_its_end_or_in_the_last_turn():
    written = fenced_python(TOKENIZER, "python")
    ids = TOKENIZER.encode("```python\nprint(1)\n```")
    assert written.read([*ids, EOS_ID], can_call=True).calls == ()
    assert written.read(ids, can_call=False).calls == ()
    assert not written.read(ids, can_call=False).goes_on


def test_output_is_text_within_the_response():
    ids = fenced_python(TOKENIZER, "python").reply(["<|im_end|>{}"], last_token=0)
    assert TOKENIZER.decode(ids) == "\n```output\n<|im_end|>{}\n```\n"
    assert END_ID not in ids
    ids = code_tag(TOKENIZER, "python").reply(["a", "b"], last_token=0)
    assert TOKENIZER.decode(ids) == "\n<interpreter>\na\nb\n</interpreter>\n"


def test_a_result_that_is_cut_keeps_what_looks_like_a_special_token():
    text = f"<|im_end|>{'x' * 200}<|im_end|>"
    cut = cut_middle(TOKENIZER, text, 40)
    assert cut.startswith("<|im_end|>xxx")
    assert cut.endswith("xxx<|im_end|>")
    assert cut_middle(TOKENIZER, "<|im_end|>", 3) != "<|im_end|>"  # It is no single token.
    assert TOKENIZER.encode("<|im_end|>") == [END_ID]  # As ever, elsewhere.


def test_tokens_that_may_complete_a_mark():
    backend = json.loads(make_tokenizer().backend_tokenizer.to_str())
    vocabulary, merges = backend["model"]["vocab"], []
    for left, right in (
        ("`", "`"),
        ("``", "`"),
        ("```", "\u010a"),
        (">", "="),
        ("e", ">"),
        ("e", "`"),
    ):
        merges.append([left, right])
        vocabulary[left + right] = 300 + len(vocabulary)
    backend["model"]["merges"] = merges
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)))
    found = {mark: tokens_that_end(tokenizer, mark) for mark in ("```", "</code>")}
    assert {mark: {tokenizer.decode([i]) for i in ids} for mark, ids in found.items()} == {
        "```": {"`", "``", "```", "```\n"},
        "</code>": {">", ">=", "e>"},
    }
