"""What turns cost on SGLang servers: tokens that are prefilled again, by how a server is picked.

    python tools/bench_turns.py MODEL --registry FOLDER [--prompts 4 --samples 8 --turns 8]

for servers, and perhaps a router, that `megatron-stare serve MODEL --registry FOLDER` has started.
Episodes take turns of a model that ends each at a limit, with something put in between, by a tool
that takes 0 to 2 times `--tool-s`. Prints a Markdown table, a row for each way:

    own table     a turn goes to the server where the last one ran, if there is room, as in runs
    least busy    each goes to the least busy one, as if it were another sample's
    router        as it was started: by prefixes that it remembers (`cache_aware`)

    asked         tokens of all requests
    prefilled     of these, tokens that were in no cache where the request went
    again         of these, tokens that had been computed before, on whichever server: all but each
                  prompt once, and what was put in, with the last token of the turn before it
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from megatron_stare.config.rollout import SamplingConfig, ServersConfig
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.engines.engine import Request
from megatron_stare.engines.randomness import derive_seed
from megatron_stare.engines.sglang import answers
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.engines.sglang.registry import registered_urls
from megatron_stare.rollout.stop_tokens import stop_token_ids
from megatron_stare.rollout.workflow.buffer import Buffer
from megatron_stare.turns import Turn
from megatron_stare.types import Prompt, Sample
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.load import open_hf_weights
from megatron_stare.weights.names import model_entries

_APART = 1_000_000
"""Between the numbers of one episode's turns, where each is to be another sample's."""


@dataclass
class Play:
    """Episodes under way, which are a `More`; each request's number says whether turns stick."""

    buffer: Buffer
    sampling: SamplingConfig
    options: argparse.Namespace
    sticks: bool
    known: SimpleQueue[Request] = field(default_factory=SimpleQueue)
    num_out: int = 0
    """Turns that somebody will say something to."""
    num_put_in: int = 0
    tell: Callable[[], None] = lambda: None

    def take(self, wait: Literal["no", "any", "all"]) -> list[Request]:
        """Turns that can begin."""
        found: list[Request] = []
        while self.num_out and (not self.known.empty() or (wait != "no" and not found)):
            found.append(self.known.get())
            self.num_out -= 1
        return found

    def when_known(self, tell: Callable[[], None]) -> None:
        """See `More`."""
        self.tell = tell

    def begin(self, prompt: Prompt, index: int) -> Request:
        """The first turn of an episode."""
        return Request(prompt, index, None, self.options.turn_tokens)

    def go_on(self, sample: Sample) -> None:
        """Put in what a tool might say, and have the next turn begin."""
        number = 1 + sum(turn.kind == "observation" for turn in sample.turns)
        if number == self.options.turns:
            return
        size = len(sample.token_ids)
        said = _made_up(self.options.put_in, f"{sample.prompt.uid}:{sample.index}:{number}")
        turn = Turn(size, size, "observation")
        episode = self.buffer.put_in(sample, said, turn, self.sampling)
        self.num_put_in += len(said) + 1  # A turn's last token was in no forward pass yet.
        index = sample.index if self.sticks else sample.index + number * _APART
        request = Request(sample.prompt, index, episode, self.options.turn_tokens)
        self.num_out += 1
        delay_s = 2 * random.random() * self.options.tool_s
        threading.Timer(delay_s, self._answer, [request]).start()

    def _answer(self, request: Request) -> None:
        self.known.put(request)
        self.tell()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--registry", type=Path, required=True)
    for name, default in (
        ("prompts", 4),
        ("samples", 8),
        ("turns", 8),
        ("prompt_tokens", 200),
        ("turn_tokens", 32),
        ("put_in", 64),
        ("rounds", 3),
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--tool-s", type=float, default=1.0)
    options = parser.parse_args()
    urls = tuple(registered_urls(options.registry, "server"))
    routers = registered_urls(options.registry, "router")
    print("| picked by | asked | prefilled | again | of asked | s |\n|---|--:|--:|--:|--:|--:|")
    for name, router, sticks in (
        ("own table", None, True),
        ("least busy", None, False),
        *(("router", url, True) for url in routers),
    ):
        with _open_engine(options.model, ServersConfig(urls=urls, router=router)) as engine:
            measured = [measure(engine, options, sticks, n) for n in range(options.rounds)]
        asked, prefilled, again, seconds = (sum(column) for column in zip(*measured, strict=True))
        share = 100 * again / asked
        print(f"| {name} | {asked:,} | {prefilled:,} | {again:,} | {share:.1f}% | {seconds:.1f} |")


def measure(
    engine: SGLangEngine, options: argparse.Namespace, sticks: bool, number: int
) -> tuple[int, int, int, float]:
    """A round of episodes from empty caches: tokens asked, prefilled, again; and seconds."""
    _push(engine, options.model, version=number + 1)
    limit = options.turns * (options.turn_tokens + options.put_in) + 1
    sampling = SamplingConfig(max_response_tokens=limit)
    play = Play(Buffer(load_tokenizer(options.model)), sampling, options, sticks)
    prompts = [
        Prompt(f"{number}:{n}", f"{n}", "", _made_up(options.prompt_tokens, f"{number}:{n}"), "")
        for n in range(options.prompts)
    ]
    requests = [play.begin(prompt, i) for prompt in prompts for i in range(options.samples)]
    start = time.perf_counter()
    with _counted() as counts:
        for sample in engine.generate(requests, sampling, seed=number, more=play):
            play.go_on(sample)
    seconds = time.perf_counter() - start
    prefilled = counts["asked"] - counts["cached"]
    again = prefilled - play.num_put_in - options.prompts * options.prompt_tokens
    return counts["asked"], prefilled, again, seconds


@contextmanager
def _counted() -> Iterator[dict[str, int]]:
    """What servers say of their caches, of every answer meanwhile."""
    counts, parse = {"asked": 0, "cached": 0}, answers.parse_generation

    def parse_and_count(answer: Any, *rest: Any) -> answers.Generation:
        counts["asked"] += answer["meta_info"]["prompt_tokens"]
        counts["cached"] += answer["meta_info"]["cached_tokens"]
        return parse(answer, *rest)

    answers.parse_generation = parse_and_count
    try:
        yield counts
    finally:
        answers.parse_generation = parse


def _made_up(count: int, name: str) -> tuple[int, ...]:
    """Tokens that begin like no others; of letters."""
    return tuple(65 + derive_seed(place, name, 0) % 26 for place in range(count))


@contextmanager
def _open_engine(model: Path, servers: ServersConfig) -> Iterator[SGLangEngine]:
    tokenizer = load_tokenizer(model)
    with tempfile.TemporaryDirectory() as folder:
        engine = SGLangEngine(
            servers,
            model,
            tokenizer,
            weights_dir=Path(folder) / "weights",
            log_dir=Path(folder),
            report=print,
            stop_ids=stop_token_ids(model, tokenizer),
        )
        try:
            yield engine
        finally:
            engine.close()


def _push(engine: SGLangEngine, model: Path, version: int) -> None:
    """The model's own weights, after which no cache holds anything."""
    shape = read_hf_config(model)
    tensors = open_hf_weights(model, shape)
    names = (name for entry in model_entries(shape).values() for name in entry.hf)
    engine.update_weights(((name, tensors[name][:]) for name in names), version)


if __name__ == "__main__":
    main()
