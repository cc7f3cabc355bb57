from collections.abc import Iterator

import pytest

from megatron_stare.config.algorithm import RewardConfig
from megatron_stare.rewards.scorer import Scorer


@pytest.fixture(scope="package")
def scorer() -> Iterator[Scorer]:
    """Exact match, in one verifier process."""
    config = RewardConfig(kind="exact", workers=1)
    with Scorer(config, max_response_tokens=100) as scorer:
        yield scorer
