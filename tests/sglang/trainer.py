"""A trainer of one sync and endless generation, to be killed: MODEL WEIGHTS_DIR URL..."""

import sys
from pathlib import Path

from megatron_stare.config import SamplingConfig, ServersConfig
from megatron_stare.data.tokenizer import load_tokenizer
from megatron_stare.errors import UserError
from megatron_stare.rollout.sglang.engine import SGLangEngine
from tests.models import hf_tensors
from tests.requests_of import requests_of
from tests.sglang.test_engine import PROMPTS


def main() -> None:
    model, weights_dir, *urls = sys.argv[1:]
    engine = SGLangEngine(
        ServersConfig(urls=tuple(urls)),
        Path(model),
        load_tokenizer(Path(model)),
        weights_dir=Path(weights_dir),
        log_dir=Path(weights_dir),
        report=print,
    )
    print("syncing", flush=True)
    engine.update_weights(hf_tensors(Path(model)).items(), 50)
    sampling = SamplingConfig(max_response_tokens=400)
    for step in range(1000):
        for _ in engine.generate(requests_of(PROMPTS, 8), sampling, seed=step):
            print("generating", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
