"""The tool `search`: passages of a local corpus, by BM25."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_stare.config.tools import ToolsConfig
from megatron_stare.errors import UserError
from megatron_stare.system.reading import open_file
from megatron_stare.tools.functions import FunctionTool
from megatron_stare.tools.tool import Arguments, Session


class SearchTool:
    """Passages of `tools.search.corpus`, which are held in memory with their index."""

    name = "search"
    remembers = False

    def __init__(self, config: ToolsConfig) -> None:
        self._config = config.search
        self._index: Any = None
        self._passages: list[str] = []
        self._function = FunctionTool(self.search, self.name)

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates take it."""
        return self._function.schema

    def start(self) -> None:
        """Read the corpus, and index it.

        Raises:
            UserError: it cannot be read, or the package bm25s is not installed.
        """
        try:
            import bm25s
        except ImportError:
            raise UserError(
                "tools.names: search needs the package bm25s: pip install megatron-stare[search]"
            ) from None
        assert self._config.corpus is not None, "the config has seen to it"
        self._passages = _read(self._config.corpus)
        tokens = self._tokens(self._passages)
        if not any(tokens.ids):
            raise UserError(f"tools.search.corpus: {self._config.corpus} has no word to search for")
        self._index = bm25s.BM25()
        self._index.index(tokens, show_progress=False)

    def session(self, log: Sequence[Arguments] = ()) -> Session:
        """Like any other: searches leave nothing behind."""
        return self._function.session()

    def close(self) -> None:
        """Nothing is held but memory."""

    def search(self, query: str) -> str:
        """Searches a collection of texts and returns the passages that fit best.

        Args:
            query: words that the passages should have.
        """
        number = min(self._config.results, len(self._passages))
        places, scores = self._index.retrieve(self._tokens([query]), k=number, show_progress=False)
        found = [
            self._passages[place]
            for place, score in zip(places[0], scores[0], strict=True)
            if score > 0
        ]
        numbered = [f"[{i}] {passage}" for i, passage in enumerate(found, start=1)]
        return "\n\n".join(numbered) or "no passage has any of these words"

    def _tokens(self, texts: list[str]) -> Any:
        import bm25s

        return bm25s.tokenize(texts, stopwords="en", show_progress=False)


def _read(path: Path) -> list[str]:
    """Passages of a corpus, each with its title before it."""
    passages = []
    try:
        with open_file(path, "r", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                passages.append(_passage(line, f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tools.search.corpus: {path} cannot be read ({error})") from None
    if not passages:
        raise UserError(f"tools.search.corpus: {path} is empty, expected passages as JSONL")
    return passages


def _passage(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"tools.search.corpus: {place} is no JSON ({error})") from None
    match row:
        case {"title": str(title), "text": str(text)}:
            return f"{title}\n{text}"
        case {"text": str(text)}:
            return text
    raise UserError(
        f'tools.search.corpus: {place}: expected {{"text": ..., "title": ...}}, found {line:.80}'
    )
