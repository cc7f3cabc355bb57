"""A server's tokenizer is compared with the trainer's, by what it encodes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.engines.sglang.answers import ServerFailure
from megatron_stare.engines.sglang.client import Server
from megatron_stare.engines.sglang.tokenizers import check_tokenizer
from megatron_stare.errors import UserError
from tests.tokenizer_files import byte_level, few_words, write_folder


@contextmanager
def serving(answer: Callable[[dict], Any]) -> Iterator[str]:
    """A stand-in for a server's /tokenize; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/tokenize"
            content = json.dumps(answer(body)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def check(url: str, folder: Path, **info: Any) -> None:
    async def run() -> None:
        server = Server(url, max_requests=1)
        try:
            await check_tokenizer(server, info, load_tokenizer(folder), deadline_s=20)
        finally:
            await server.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bytes"), byte_level())


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("words"), few_words())


def encodes_as(folder: Path) -> Callable[[dict], Any]:
    tokenizer = load_tokenizer(folder)

    def answer(body: dict) -> Any:
        assert body["add_special_tokens"] is False
        ids = tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        return {"tokens": ids, "count": [len(row) for row in ids], "max_model_len": 1}

    return answer


def test_a_server_with_the_same_tokenizer_is_taken(folder):
    with serving(encodes_as(folder)) as url:
        check(url, folder, tokenizer_path="anywhere")


def test_a_server_with_another_is_refused_by_its_url_and_the_text(folder, other):
    with serving(encodes_as(other)) as url, pytest.raises(UserError) as error:
        check(url, folder, tokenizer_path="their/model")
    assert f"{url}: has another tokenizer (their/model) than the trainer ({folder})" in str(
        error.value
    )
    assert "words: " in str(error.value)


@pytest.mark.parametrize("tokens", [[[1]], [1] * 10, 5, None, {"0": []}], ids=str)
def test_what_is_no_answer_is_the_servers_failure(folder, tokens):
    with serving(lambda _: {"tokens": tokens}) as url, pytest.raises(ServerFailure):
        check(url, folder, tokenizer_path="x")


def test_of_a_server_without_one_the_folder_it_names_is_read(folder, other, tmp_path):
    nobody = "http://127.0.0.1:1"
    check(nobody, folder, skip_tokenizer_init=True, tokenizer_path=str(folder))
    check(nobody, folder, skip_tokenizer_init=True, tokenizer_path=str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="has another tokenizer"):
        check(nobody, folder, skip_tokenizer_init=True, tokenizer_path=str(other))
