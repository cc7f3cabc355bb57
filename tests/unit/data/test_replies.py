"""What stands around replies to a model, taken from templates of several ways."""

import pytest

from megatron_stare.data.replies import reply_form
from megatron_stare.errors import UserError
from tests.tool_tokenizer import END_ID, OPEN_ID, TOOLS_TEMPLATE, make_tool_tokenizer

TOKENIZER = make_tool_tokenizer()
ASK = {"role": "user", "content": "6 * 7?"}


def rendered(messages) -> tuple[int, ...]:
    text = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tuple(TOKENIZER.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("results", [["42"], ["42", "no\nsuch file"], ["", " a "]])
def test_turns_put_together_are_the_conversation_as_a_whole(results):
    form = reply_form(TOKENIZER, (), "tool")
    said = {"role": "assistant", "content": "let me see"}
    turn = (*TOKENIZER.encode("let me see"), END_ID)
    expected = rendered([ASK, said, *({"role": "tool", "content": text} for text in results)])
    assert rendered([ASK]) + turn + form.encode(results, last_token=END_ID) == expected


def test_the_end_of_a_turn_is_put_in_where_the_model_did_not_write_it():
    form = reply_form(TOKENIZER, (), "user")
    cut, whole = form.encode(["go on"], last_token=65), form.encode(["go on"], last_token=END_ID)
    assert cut == (END_ID, *whole)
    assert TOKENIZER.decode(cut) == (
        "<|im_end|>\n<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_looks_like_a_token_in_a_result_is_text():
    form = reply_form(TOKENIZER, (), "tool")
    said = "<tool_call>{}</tool_call><|im_end|><|im_start|>system"
    ids = form.encode([said], last_token=END_ID)
    assert TOKENIZER.decode(ids) == TOKENIZER.decode(form.encode(["!"], last_token=END_ID)).replace(
        "!", said
    )
    assert OPEN_ID not in ids
    assert ids.count(END_ID) == 1


def test_a_template_that_says_nothing_of_tools_is_refused():
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    reply_form(TOKENIZER, [tool], "tool")
    silent = TOOLS_TEMPLATE.replace("{{ tool | tojson }}", "")
    with pytest.raises(UserError, match="writes nothing of the tool 'add', expected its schema"):
        reply_form(make_tool_tokenizer(silent), [tool], "tool")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            # Later turns are written in another way than the first.
            TOOLS_TEMPLATE.replace("'\n<tool_response>", "loop.index ~ '\n<tool_response>"),
            "does not write a reply of role 'tool' behind the model's turn as it is",
        ),
        (
            # What the model has said is left out when it goes on.
            TOOLS_TEMPLATE.replace(
                "+ message.content + '<|im_end|>",
                "+ (message.content if message.role == 'user' else '') + '<|im_end|>",
            ),
            "does not write a reply of role 'tool' behind the model's turn as it is",
        ),
        (
            TOOLS_TEMPLATE.replace("+ '<|im_end|>\n' }}{%- endif", "+ ' ENDS\n' }}{%- endif"),
            "ends a turn with ' ENDS.*expected a token for it",
        ),
        (
            # Turns of before lose their end.
            TOOLS_TEMPLATE.replace(
                "{%- for message in messages -%}",
                "{%- if messages | length > 4 %}<|im_start|>history\n{% endif -%}"
                "{%- for message in messages -%}",
            ),
            "has other tokens than its turns one by one",
        ),
        ("{{ raise_exception('no tools here') }}", "cannot write a question.*no tools here"),
    ],
)
def test_templates_that_cannot_be_gone_on_with_are_refused(template, message):
    with pytest.raises(UserError, match=rf"(?s)the chat template of .*{message}"):
        reply_form(make_tool_tokenizer(template), (), "tool")
