"""Search in a corpus on disk."""

from __future__ import annotations

import json

import pytest

from megatron_stare.config.tools import ToolsConfig
from megatron_stare.errors import UserError
from megatron_stare.tools.table import make_tools

ROWS = [
    {"title": "Cats", "text": "A cat is a small animal that purrs."},
    {"title": "Dogs", "text": "A dog is an animal that barks."},
    {"text": "Rivers run to the sea."},
]


def search_tool(tmp_path, lines, results=2):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f"{line}\n" for line in lines))
    config = ToolsConfig(names=("search",), search={"corpus": corpus, "results": results})
    [tool] = make_tools(config).values()
    tool.start()
    return tool


def test_the_passages_that_fit_best_come_first(tmp_path):
    session = search_tool(tmp_path, map(json.dumps, ROWS)).session()

    assert session.call({"query": "purring animal: does it purrs"}, 5).text == (
        "[1] Cats\nA cat is a small animal that purrs.\n\n[2] Dogs\nA dog is an animal that barks."
    )
    assert session.call({"query": "the sea"}, 5).text == "[1] Rivers run to the sea."


@pytest.mark.parametrize("query", ["", "zebra", "the", "?!", "\ud800"])
def test_words_that_are_nowhere_find_nothing(tmp_path, query):
    result = (
        search_tool(tmp_path, map(json.dumps, ROWS), results=9).session().call({"query": query}, 5)
    )

    assert (result.text, result.ok) == ("no passage has any of these words", True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty, expected passages"),
        (["{"], "corpus.jsonl:1 is no JSON"),
        (['{"text": "a"}', '{"title": "b"}'], "corpus.jsonl:2: expected"),
        (["[1]"], "corpus.jsonl:1: expected"),
        (['{"text": "the"}'], "no word"),
    ],
)
def test_a_corpus_that_is_none_is_refused(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        search_tool(tmp_path, lines)


def test_a_corpus_that_is_not_there_is_named(tmp_path):
    config = ToolsConfig(names=("search",), search={"corpus": tmp_path / "none.jsonl"})

    with pytest.raises(UserError, match=r"none\.jsonl cannot be read"):
        make_tools(config)["search"].start()
