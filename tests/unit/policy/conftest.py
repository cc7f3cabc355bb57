"""A world of one process for tests that build a model in place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.policy.groups import ParallelGroups, build_groups, destroy_groups


@pytest.fixture(scope="package")
def groups() -> Iterator[ParallelGroups]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield build_groups(ParallelConfig())
    destroy_groups()
    dist.destroy_process_group()
