"""A trainer of one sync and endless generation, to be killed: MODEL WEIGHTS_DIR URL...

In the sync, before the first tensor, it says so and waits for its standard input to end.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from megatron_stare.config.rollout import SamplingConfig, ServersConfig
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.engines.sglang.engine import SGLangEngine
from megatron_stare.errors import UserError
from megatron_stare.rollout.stop_tokens import stop_token_ids
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.test_engine import PROMPTS


def main() -> None:
    model, weights_dir, *urls = sys.argv[1:]
    tokenizer = load_tokenizer(Path(model))
    engine = SGLangEngine(
        ServersConfig(urls=tuple(urls)),
        Path(model),
        tokenizer,
        weights_dir=Path(weights_dir),
        log_dir=Path(weights_dir),
        report=print,
        stop_ids=stop_token_ids(Path(model), tokenizer),
    )
    engine.update_weights(tensors_on_demand(Path(model)), 50)
    sampling = SamplingConfig(max_response_tokens=400)
    for step in range(1000):
        for _ in engine.generate(requests_of(PROMPTS, 8), sampling, seed=step):
            print("generating", flush=True)


def tensors_on_demand(model: Path) -> Iterator[tuple[str, Tensor]]:
    print("syncing", flush=True)
    sys.stdin.read()
    yield from hf_tensors(model).items()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
