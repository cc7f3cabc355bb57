"""Hooks of the docs site (`make docs`): files beside docs/ that its pages link to are pages too.

A link to `../examples/countdown` leads, on the site, to a page made of that folder's README.md; one
to a source leads to a page that shows it. So a page reads the same where the repository is browsed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools import docs_reference

REPOSITORY = Path(__file__).parents[1]
_DOCS = "docs/"
_BESIDE = "repository/"
_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")
_LIST_BEHIND_TEXT = re.compile(r"(?m)^(?![-*] |\d+\. |\s)(.+\n)(?=- |1\. )")
_LANGUAGES = {"py": "python", "yaml": "yaml", "sbatch": "bash", "sh": "bash", "json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside docs/, what that links to, and what is printed from code."""
    pages = files.documentation_pages()
    todo = [path for page in pages for path in _linked(_DOCS + page.src_uri, page.content_string)]
    while todo:
        path = todo.pop()
        uri = _uri(path)
        if path.startswith(_DOCS) or uri in files.src_uris:
            continue
        text = _as_page(path)
        files.append(File.generated(config, uri, content=text))
        todo += _linked(path, text)
    for uri in docs_reference.PAGES:
        files.append(File.generated(config, uri, content=docs_reference.page(uri)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of docs/ lead to their pages, and a list may follow a text at once."""
    source = _source(page.file.src_uri)

    def redirect(link: re.Match[str]) -> str:
        path = _resolve(source, link[2])
        if path is None or (path.startswith(_DOCS) and source.startswith(_DOCS)):
            return link[0]
        there = os.path.relpath(_uri(path), PurePosixPath(page.file.src_uri).parent)
        return link[1] + there + link[3]

    return _LIST_BEHIND_TEXT.sub(r"\1\n", _LINK.sub(redirect, markdown))


def _linked(source: str, text: str) -> Iterator[str]:
    """Files of the repository that a page, itself one, links to."""
    paths = (_resolve(source, target) for _, target, _ in _LINK.findall(text))
    return (path for path in paths if path is not None)


def _resolve(source: str, target: str) -> str | None:
    """The file that a link means, from the root: of a folder its README.md; None if it is none."""
    path = os.path.normpath(PurePosixPath(source).parent / target)
    if (REPOSITORY / path / "README.md").is_file():
        path = f"{path}/README.md" if path != "." else "README.md"
    return path if (REPOSITORY / path).is_file() else None


def _uri(path: str) -> str:
    """Of a file of the repository, its page's, or its own if it stands in docs/."""
    if path.startswith(_DOCS):
        return path.removeprefix(_DOCS)
    return _BESIDE + (path if path.endswith(".md") else f"{path}.md")


def _source(uri: str) -> str:
    """The file that a page is made of; `_uri` the other way."""
    if not uri.startswith(_BESIDE):
        return _DOCS + uri
    path = uri.removeprefix(_BESIDE)
    return path if (REPOSITORY / path).is_file() else path.removesuffix(".md")


def _as_page(path: str) -> str:
    text = (REPOSITORY / path).read_text()
    if path.endswith(".md"):
        return text
    language = _LANGUAGES.get(path.rpartition(".")[2], "text")
    return f"# `{path}`\n\n````{language}\n{text}\n````\n"
