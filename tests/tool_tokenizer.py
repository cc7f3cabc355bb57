"""A tokenizer whose chat template writes tools as families with Hermes' format do."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from tests.models import SPECIAL_TOKENS, make_tokenizer

CALL_TOKENS = ("<tool_call>", "</tool_call>")
OPEN_ID, CLOSE_ID = 259, 260
END_ID = 256 + SPECIAL_TOKENS.index("<|im_end|>")
TOOLS_TEMPLATE = (
    "{%- if tools -%}<|im_start|>system\nYou may call\n"
    "{%- for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|im_end|>\n{% endif -%}"
    "{%- for message in messages -%}"
    "{%- set before = messages[loop.index0 - 1].role if loop.index0 else '' -%}"
    "{%- if message.role == 'tool' -%}"
    "{%- if before != 'tool' %}<|im_start|>user{% endif -%}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}"
    "{{ '<|im_end|>\n' }}{%- endif -%}"
    "{%- else -%}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)


def make_tool_tokenizer(template: str = TOOLS_TEMPLATE) -> PreTrainedTokenizerFast:
    """That of tests, with the two tokens of a call, which are not special."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(list(CALL_TOKENS))
    tokenizer.chat_template = template
    return tokenizer
