"""Pages of the docs site that are printed from the code have every key and every command."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from megatron_stare.cli import COMMANDS
from megatron_stare.config.kinds import KINDS
from tools.docs_reference import COMMANDS_PAGE, CONFIG_PAGES, page


def keys_of(schema: dict[str, Any], part: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key that a JSON schema knows, dotted; what stands under any name is under NAME."""
    for option in (part, *part.get("anyOf", ())):
        section = schema["$defs"][option["$ref"].split("/")[-1]] if "$ref" in option else option
        for name, below in section.get("properties", {}).items():
            inner = list(keys_of(schema, below, f"{prefix}{name}."))
            is_bare = below.get("additionalProperties") is False and not inner  # It has no keys.
            yield from inner or ([] if is_bare else [prefix + name])
        named = section.get("additionalProperties")
        if isinstance(named, dict) and named.get("$ref"):
            yield from keys_of(schema, named, f"{prefix}NAME.")


@pytest.mark.parametrize(("uri", "name"), CONFIG_PAGES.items())
def test_every_key_of_a_config_is_in_the_docs(uri, name):
    schema = KINDS[name].model_json_schema()
    keys = set(keys_of(schema, schema))

    shown = set(re.findall(r'^\| <a id="(.+)"></a>`\1` \| .+ \| .+ \| .+ \|$', page(uri), re.M))

    assert shown >= keys
    assert len(keys) > 7
    assert name != "train" or "data.sources.NAME.weight" in keys


def test_every_command_is_in_the_docs():
    text = page(COMMANDS_PAGE)

    assert re.findall(r"^## (.+)$", text, re.M) == [*COMMANDS]
    assert "usage: megatron-stare plan" in text
    assert "--rollout-gpus" in text
    assert max(map(len, text.splitlines())) <= 110
