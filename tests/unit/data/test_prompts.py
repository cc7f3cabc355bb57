"""Prompt sets: what a row becomes, which rows are left out and named, and the cursor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from megatron_stare.config.data import DataConfig
from megatron_stare.data.prompts import PromptSet
from megatron_stare.errors import UserError
from tests.models import make_tokenizer

SUMS = [{"prompt": f"{a}+{a}=", "answer": str(2 * a)} for a in range(10)]
CHAT = [{"role": "user", "content": "2+2="}]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def make_set(tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    """A prompt set of JSON rows (or raw lines), written to `sums.jsonl`."""

    def make(rows: list[Any], *, seed: int = 1, raw: bool = False, **settings: Any) -> PromptSet:
        path = tmp_path / "sums.jsonl"
        lines = rows if raw else [json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
        return PromptSet(DataConfig(path=path, **settings), tokenizer, seed=seed)

    return make


def test_a_row_becomes_a_prompt(make_set, tokenizer):
    (prompt,) = make_set([SUMS[3]], template="Q: {prompt}\nPut {x} in \\boxed{}.").all()
    assert prompt.text == "Q: 3+3=\nPut {x} in \\boxed{}."
    assert tokenizer.decode(prompt.token_ids) == prompt.text
    assert (prompt.answer, prompt.row, prompt.uid) == ("6", "sums.jsonl:1", "all-1")


def test_the_chat_template_takes_text_and_messages(make_set, tokenizer):
    rows = [{"prompt": "2+2=", "answer": "4"}, {"prompt": CHAT, "answer": "4"}]
    for prompt in make_set(rows, template="chat").all():
        assert prompt.text == "<|im_start|>user\n2+2=<|im_end|>\n<|im_start|>assistant\n"
        assert prompt.token_ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


def test_a_system_prompt_goes_first_unless_the_row_has_its_own(make_set):
    own = [{"role": "system", "content": "Be loud."}, *CHAT]
    rows = [{"prompt": "2+2=", "answer": "4"}, {"prompt": own, "answer": "4"}]
    first, second = make_set(rows, template="chat", system_prompt="Be brief.").all()
    assert first.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2=")
    assert second.text.startswith("<|im_start|>system\nBe loud.<|im_end|>\n<|im_start|>user\n2+2=")


@pytest.mark.parametrize(
    ("value", "text"),
    [("27.0", "27.0"), (27.0, "27.0"), (27, "27"), (1e22, "1" + "0" * 22), (1e-7, "0.0000001")],
)
def test_answers_may_be_numbers(make_set, value: object, text: str):
    assert make_set([{"prompt": "?", "answer": value}]).all()[0].answer == text


def test_a_dotted_field_reaches_into_a_nested_one(make_set):
    row = {"prompt": "?", "reward_model": {"ground_truth": "34", "style": "rule"}}
    assert make_set([row], answer_field="reward_model.ground_truth").all()[0].answer == "34"


def test_parquet_gives_the_same_prompts_as_jsonl(make_set, tokenizer, tmp_path: Path):
    rows = [{"prompt": CHAT, "answer": "4"}] * 3
    path = tmp_path / "sums.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    prompts = PromptSet(DataConfig(path=path, template="chat"), tokenizer, seed=1).all()
    from_jsonl = make_set(rows, template="chat").all()
    assert [(p.uid, p.token_ids, p.answer) for p in prompts] == [
        (p.uid, p.token_ids, p.answer) for p in from_jsonl
    ]
    assert [p.row for p in prompts] == ["sums.parquet:1", "sums.parquet:2", "sums.parquet:3"]


UNUSABLE = [
    ('{"prompt": "1+1=", "answer"', "malformed JSON"),
    ('["1+1=", "2"]', "not a JSON object"),
    ('{"prompt": "1+1="}', "no field 'answer'"),
    ('{"prompt": null, "answer": "2"}', "field 'prompt' is null"),
    ('{"prompt": "1+1=", "answer": " "}', "field 'answer' is empty"),
    ('{"prompt": "1+1=", "answer": ["2"]}', "field 'answer' is a list, expected text"),
    ('{"prompt": "1+1=", "answer": true}', "field 'answer' is a bool, expected text"),
    ('{"prompt": "1+1=", "answer": NaN}', "field 'answer' is a float, expected text"),
    ('{"prompt": "\\ud800", "answer": "2"}', "field 'prompt' is not valid Unicode"),
    ('{"prompt": [{"role": "user"}], "answer": "2"}', "field 'prompt' holds chat messages"),
    ('{"prompt": "1111111111+1=", "answer": "2"}', "over 10 tokens"),
]


def test_rows_that_cannot_be_used_are_counted_by_reason_and_named(make_set):
    usable = '{"prompt": "2+2=", "answer": "4"}'
    lines = [usable, *(line for line, _ in UNUSABLE), "", usable]
    prompts = make_set(lines, raw=True, max_prompt_tokens=10)
    assert [prompt.row for prompt in prompts.all()] == ["sums.jsonl:1", "sums.jsonl:14"]
    assert prompts.report.num_used == 2
    assert prompts.report.num_left_out == len(UNUSABLE)
    names = {reason.partition(",")[0]: rows for reason, rows in prompts.report.left_out.items()}
    for line, (_, reason) in enumerate(UNUSABLE, start=2):
        assert names[reason.partition(",")[0]] == [f"sums.jsonl:{line}"]


def test_the_report_is_one_line_that_names_the_first_few(make_set):
    rows = [SUMS[0], *[{"prompt": "1+1="}] * 5, {"prompt": "", "answer": "1"}]
    report = str(make_set(rows).report)
    assert report.endswith(
        "sums.jsonl: 1 of 7 rows used; left out: "
        "5 no field 'answer' (sums.jsonl:2, sums.jsonl:3, sums.jsonl:4, ...); "
        "1 field 'prompt' is empty (sums.jsonl:7)"
    )


@pytest.mark.parametrize(
    ("messages", "reason"),
    [([], "is empty"), ([{"role": "user"}], "holds no list"), (["2+2="], "holds no list")],
)
def test_malformed_chat_messages_are_left_out(make_set, messages: list, reason: str):
    rows = [{"prompt": messages, "answer": "4"}, {"prompt": CHAT, "answer": "4"}]
    prompts = make_set(rows, template="chat")
    ((reported, names),) = prompts.report.left_out.items()
    assert reason in reported
    assert names == ["sums.jsonl:1"]


def test_what_the_chat_template_refuses_is_left_out(tmp_path: Path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    path = tmp_path / "chat.jsonl"
    system = [{"role": "system", "content": "Be brief."}, *CHAT]
    rows = [{"prompt": prompt, "answer": "4"} for prompt in (system, CHAT)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    prompts = PromptSet(DataConfig(path=path, template="chat"), tokenizer, seed=1)
    assert prompts.report.left_out == {
        "the chat template refuses: no system role": ["chat.jsonl:1"]
    }


def test_each_epoch_asks_every_prompt_once_in_another_seeded_order(make_set):
    drawn = make_set(SUMS).draw(30)
    epochs = [[prompt.answer for prompt in drawn[i : i + 10]] for i in (0, 10, 20)]
    assert [sorted(epoch, key=int) for epoch in epochs] == [[row["answer"] for row in SUMS]] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert drawn == make_set(SUMS).draw(30)
    assert drawn != make_set(SUMS, seed=2).draw(30)
    assert len({prompt.uid for prompt in drawn}) == 30


def test_uids_are_epoch_and_row(make_set):
    drawn = make_set(SUMS[:2], shuffle=False).draw(5)
    assert [prompt.uid for prompt in drawn] == ["0-1", "0-2", "1-1", "1-2", "2-1"]


@pytest.mark.parametrize("num_before", [0, 7, 10, 23])
def test_a_saved_cursor_goes_on_exactly(make_set, num_before: int):
    uninterrupted = make_set(SUMS)
    uninterrupted.draw(num_before)
    state = json.loads(json.dumps(uninterrupted.state_dict()))
    resumed = make_set(SUMS)
    resumed.load_state_dict(state)
    assert resumed.draw(15) == uninterrupted.draw(15)


@pytest.mark.parametrize(
    ("rows", "settings", "difference"),
    [
        (SUMS[:9], {}, "rows was 10, is 9"),
        ([*SUMS[:9], SUMS[0]], {}, "digest was"),
        (SUMS, {"template": "{prompt}?"}, "digest was"),
        (SUMS, {"seed": 2}, "seed was 1, is 2"),
        (SUMS, {"shuffle": False}, "shuffle was True, is False"),
    ],
)
def test_a_cursor_of_other_data_is_refused(make_set, rows, settings, difference: str):
    state = make_set(SUMS).state_dict()
    with pytest.raises(UserError, match=difference):
        make_set(rows, **settings).load_state_dict(state)


def test_a_prompt_over_the_limit_is_an_error_where_that_is_asked_for(make_set):
    with pytest.raises(UserError, match=r"sums.jsonl:1: a prompt of 4 tokens.*max_prompt_tokens=3"):
        make_set(SUMS, max_prompt_tokens=3, on_long_prompt="error")


def test_a_set_filtered_away_gives_the_counts_and_the_fields(make_set):
    with pytest.raises(UserError, match=r"0 of 10 rows used; left out: 10 over 3 tokens"):
        make_set(SUMS, max_prompt_tokens=3)
    with pytest.raises(UserError, match=r"10 no field 'question'.*fields found: prompt, answer"):
        make_set(SUMS, prompt_field="question")
    with pytest.raises(UserError, match=r"0 of 1 rows used; left out: 1 malformed JSON"):
        make_set(["{"], raw=True)


def test_an_empty_missing_or_foreign_file_is_one_clear_error(make_set, tokenizer, tmp_path: Path):
    with pytest.raises(UserError, match="the file is empty"):
        make_set([])
    (tmp_path / "broken.parquet").write_text("PAR1 not really")
    for name, message in [
        ("none.jsonl", "no such file"),
        ("sums.csv", r"expected a file named \*.jsonl or \*.parquet"),
        ("broken.parquet", "not a readable Parquet file"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            PromptSet(DataConfig(path=tmp_path / name), tokenizer, seed=1)
        assert name in str(error.value)


def test_a_chat_template_is_asked_of_a_tokenizer_that_has_one(tmp_path: Path):
    config = DataConfig(path=tmp_path / "sums.jsonl", template="chat")
    with pytest.raises(UserError, match=r"template='chat'.*has no chat template"):
        PromptSet(config, make_tokenizer(chat_template=False), seed=1)


ODD = [
    ("[" * 100_000, "nested too deeply"),
    ('{"prompt": ' + '{"a": ' * 50_000, "nested too deeply"),
    ('{"prompt": [{"role": "\\ud83d", "content": "x"}], "answer": "1"}', "not valid Unicode"),
    ('{"prompt": [{"role": "user", "content": "\\udc00"}], "answer": "1"}', "not valid Unicode"),
    (
        '{"prompt": [{"role": "user", "content": "x", "name": "\\ud83d"}], "answer": "1"}',
        "not valid Unicode",
    ),
    (
        '{"prompt": [{"role": "user", "content": "x", "more": [{"\\ud83d": 1}]}], "answer": "1"}',
        "not valid Unicode",
    ),
    (
        '{"prompt": [{"role": "user", "content": "x", "a": '
        + "[" * 5_000
        + "]" * 5_000
        + '}], "answer": "1"}',
        "nested too deeply",
    ),
    ('{"prompt": "x", "answer": ' + "9" * 5_000 + "}", "malformed JSON"),
    ('{"prompt": "x", "answer": 1e999}', "field 'answer' is a float, expected text"),
]


@pytest.mark.parametrize("template", ["chat", "{prompt}"])
def test_odd_rows_are_left_out_and_the_others_used(make_set, template: str):
    lines = [line for line, _ in ODD] + ['{"prompt": "2+2=", "answer": "4"}']
    prompts = make_set(lines, raw=True, template=template)
    assert [prompt.answer for prompt in prompts.all()] == ["4"]
    reasons = {name: reason for reason, names in prompts.report.left_out.items() for name in names}
    for number, (_, reason) in enumerate(ODD, start=1):
        if template == "chat" or "messages" not in reasons[f"sums.jsonl:{number}"]:
            assert reason in reasons[f"sums.jsonl:{number}"]


def test_a_byte_order_mark_costs_no_row_and_utf_16_is_named(tmp_path: Path, tokenizer):
    path = tmp_path / "sums.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in SUMS)
    path.write_text(text, encoding="utf-8-sig")
    assert len(PromptSet(DataConfig(path=path), tokenizer, seed=1)) == len(SUMS)
    path.write_text(text, encoding="utf-16")
    with pytest.raises(UserError, match=r"sums\.jsonl: is UTF-16, expected UTF-8"):
        PromptSet(DataConfig(path=path), tokenizer, seed=1)


def test_values_of_parquet_beyond_python_leave_their_rows_out(tmp_path: Path, tokenizer):
    offsets = pyarrow.py_buffer(b"\0\0\0\0\4\0\0\0\5\0\0\0")
    buffers = [None, offsets, pyarrow.py_buffer(b"2+2=\xff")]
    invalid = pyarrow.Array.from_buffers(pyarrow.string(), 2, buffers)
    path = tmp_path / "sums.parquet"
    answers = pyarrow.array(["4", "5"])
    parquet.write_table(pyarrow.table({"prompt": invalid, "answer": answers}), path)
    prompts = PromptSet(DataConfig(path=path), tokenizer, seed=1)
    assert [prompt.text for prompt in prompts.all()] == ["2+2="]
    assert prompts.report.left_out == {"a value that is not readable": ["sums.parquet:2"]}


def test_what_a_terminal_would_obey_is_written_as_escapes(make_set):
    with pytest.raises(UserError) as error:
        make_set([{"\x1b[31mpro\u202empt": "2+2=", "answer": "4"}])
    assert "\\x1b[31mpro\\u202empt" in str(error.value)
    assert "\x1b" not in str(error.value)


def test_many_reasons_are_told_in_few(make_set):
    report = make_set(SUMS).report
    for number in range(40):
        report.leave_out(f"x:{number}", f"reason {number}")
    assert str(report).endswith("; 1 reason 9 (x:9); the rest for 30 other reasons")


def test_a_set_knows_what_their_template_has_begun(make_set):
    assert make_set([SUMS[1]], template="{prompt}\n<think>\n").form.prefill == "<think>\n"
    assert make_set([SUMS[1]]).form.prefill == ""


def test_a_prompt_without_tokens_is_left_out(tmp_path: Path):
    """Not every tokenizer has a token for what it does not know."""
    core = Tokenizer(models.WordLevel({"how": 0, "<eos>": 1}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("[^a-z]"), "removed"), pre_tokenizers.Whitespace()]
    )
    few = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    path = tmp_path / "sums.jsonl"
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in [*SUMS, {"prompt": "how", "answer": "?"}])
    )
    prompts = PromptSet(DataConfig(path=path), few, seed=1)
    assert prompts.report.left_out == {
        "the prompt has no tokens": [f"sums.jsonl:{n}" for n in range(1, 11)]
    }


def test_a_prompt_may_have_a_demonstration_with_its_end(make_set, tokenizer):
    rows = [SUMS[1] | {"worked": "1 and 1 is 2"}, SUMS[2], SUMS[3] | {"worked": ""}]
    prompts = make_set(rows, demonstration_field="worked")
    (prompt,) = prompts.all()
    assert prompt.demonstration == "1 and 1 is 2"
    end = tokenizer.eos_token_id
    assert prompt.demonstration_ids == (*tokenizer.encode("1 and 1 is 2"), end)
    assert "1 of 3 rows used" in str(prompts.report)
    assert not make_set(rows).all()[0].demonstration_ids


def test_a_demonstration_that_is_too_long_leaves_its_row_out(tmp_path, tokenizer):
    path = tmp_path / "sums.jsonl"
    rows = [SUMS[1] | {"worked": "so it is 2"}, SUMS[2] | {"worked": "4"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=path, demonstration_field="worked")
    prompts = PromptSet(config, tokenizer, seed=1, max_demonstration_tokens=2)
    assert [prompt.demonstration for prompt in prompts.all()] == ["4"]
    assert "field 'worked' over 2 tokens" in str(prompts.report)
