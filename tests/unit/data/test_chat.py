"""Chat templates: run under limits, seen through for what they put around a response."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from megatron_stare.data.rendering import Chat, render_chats
from megatron_stare.data.tables import UnusableRow
from megatron_stare.data.templates import PromptTemplate
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.data.turns import TurnForm, form_of_chat, form_of_plain
from megatron_stare.errors import UserError
from tests.tokenizer_files import CHATML, THINKING, byte_level, write_folder

ASK = [{"role": "user", "content": "q"}]
IM_START, IM_END = 263, 264


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"), byte_level())


@pytest.fixture
def tokenizer(folder) -> PreTrainedTokenizerFast:
    return load_tokenizer(folder)


def render(tokenizer, template: str) -> list[str | UnusableRow]:
    tokenizer.chat_template = template
    return render_chats(tokenizer, [Chat(f"p.jsonl:{row}", ASK) for row in (1, 2)])


def test_chats_are_rendered_in_their_order_each_as_transformers_would(tokenizer):
    chats = [Chat("1", ASK), Chat("2", ASK, is_asked=False)]
    expected = [
        tokenizer.apply_chat_template(chat.messages, tokenize=False, add_generation_prompt=asked)
        for chat, asked in zip(chats, (True, False), strict=True)
    ]
    assert render_chats(tokenizer, chats) == expected
    assert render_chats(tokenizer, []) == []


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ENDLESS = [
    (LOOP, "takes more than 3 s of computing"),
    ("{{ 9**(9**(9**9)) }}", "takes more than 3 s of computing"),
    ("{{ 'a' * 10**10 }}", "takes more than 1 GiB of memory"),
    ("{{ '%9999999999d' % 1 }}", "takes more than 1 GiB of memory"),
    ("{{ 'x'|center(10**10) }}", "takes more than 1 GiB of memory"),
    ("{% if", "is malformed"),
    ("{{ 'a' | nosuchfilter }}", "is malformed"),
]


@pytest.mark.parametrize(("template", "problem"), ENDLESS)
def test_a_template_that_does_not_end_or_fit_is_one_error_within_seconds(
    tokenizer, template, problem
):
    before = time.thread_time()
    with pytest.raises(UserError) as error:
        render(tokenizer, template)
    assert problem in str(error.value)
    assert "(at p.jsonl:1)" in str(error.value)
    assert time.thread_time() - before < 1, "the computing is the other process's"


FAILING = [
    ("{{ 1 + 'a' }}", "the chat template fails: TypeError: unsupported operand"),
    ("{{ 'a' * 10**30 }}", "the chat template fails: OverflowError: cannot fit 'int'"),
    ("{% for i in range(10**9) %}{% endfor %}x", "the chat template fails: OverflowError"),
    ("{{ 1 // 0 }}", "the chat template fails: ZeroDivisionError"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "the chat template fails: RecursionError"),
    ("{{ messages[7].content.x.y }}", "the chat template refuses: "),
    ("{{ raise_exception('no') }}", "the chat template refuses: no"),
    ("{{ raise_exception('a\ud83d\n' * 300) }}", "the chat template refuses: a? a? a?"),
    ("{{ 'a' * 2**25 }}", "the chat template makes more than 16777216 characters"),
]


@pytest.mark.parametrize(("template", "reason"), FAILING)
def test_a_template_that_fails_on_a_conversation_leaves_it_out(tokenizer, template, reason):
    for found in render(tokenizer, template):
        assert isinstance(found, UnusableRow)
        assert str(found).startswith(reason)
        assert len(str(found)) < 300


KEEPS_THINKING_OF_THE_LAST = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
DROPS_THINKING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}"
    "{% else %}<|im_end|>{{ m.content.split('</think>')[-1] | trim }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_end|><think>\n{% endif %}"
)
FORMS = {
    "no prefill": (CHATML, TurnForm("", (IM_END,))),
    "a tag": (THINKING, TurnForm("<think>\n", (IM_END,))),
    "a tag, as Qwen3's of 2507": (KEEPS_THINKING_OF_THE_LAST, TurnForm("<think>\n", (IM_END,))),
    "a tag, as DeepSeek-R1's": (DROPS_THINKING, TurnForm("<think>\n", (262,))),
    "thinking closed": (
        CHATML.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif"),
        TurnForm("<think>\n\n</think>\n\n", (IM_END,)),
    ),
    "words": (
        CHATML.replace("assistant\n{% endif", "assistant\nLet me think. {% endif"),
        TurnForm("Let me think. ", (IM_END,)),
    ),
    "no special tokens": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        TurnForm(),
    ),
    "roles as tags": (
        "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>\n{% endif %}",
        TurnForm(),
    ),
    "an end that looks like a tag, and no beginning": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}",
        TurnForm("", (262,)),
    ),
    "another header than in history": (
        "{% for m in messages %}[{{ m.role | capitalize }}] {{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}",
        TurnForm(),
    ),
    "none that takes a conversation": ("{{ raise_exception('one message') }}", TurnForm()),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_a_template_puts_around_a_response_is_found(tokenizer, name):
    tokenizer.chat_template, expected = FORMS[name]
    assert form_of_chat(tokenizer) == expected


@pytest.mark.parametrize(
    ("template", "prefill"),
    [
        ("{prompt}", ""),
        ("Q: {prompt}\nA:", ""),
        ("User: {prompt}\nAssistant: <think>", "<think>"),
        ("{prompt}\n<reasoning>\n", "<reasoning>\n"),
        ("<b>{prompt}", ""),
    ],
)
def test_a_plain_template_may_open_a_tag_too(template, prefill):
    assert form_of_plain(template).prefill == prefill


@pytest.mark.parametrize(
    ("response", "learned"),
    [
        ("<think>\nTwo.</think>2", "Two.</think>2"),
        ("<think>Two.</think>2", "Two.</think>2"),
        ("\n <think>\n\nTwo.</think>2", "\nTwo.</think>2"),
        ("Two.</think>2", "Two.</think>2"),
        ("so <think>\nTwo.</think>2", "so <think>\nTwo.</think>2"),
    ],
)
def test_a_response_is_learned_without_the_prefill(response, learned):
    assert TurnForm("<think>\n").without_prefill(response) == learned
    assert TurnForm().without_prefill(response) == response


def test_a_template_that_does_not_end_is_refused_before_any_row_is_read(tokenizer):
    tokenizer.chat_template = LOOP
    with pytest.raises(UserError, match=r"the chat template of .* takes more than 3 s"):
        PromptTemplate("chat", tokenizer)


@pytest.mark.parametrize("template", ["hello", "{{ messages | length }}", "{{ bos_token }}"])
def test_a_template_that_leaves_out_what_is_asked_is_refused(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=r"the chat template of .* leaves out what is asked"):
        PromptTemplate("chat", tokenizer)
