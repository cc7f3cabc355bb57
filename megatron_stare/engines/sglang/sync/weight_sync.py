"""Weights of a version to all servers, and the proof that they have them.

    roll call -> pause -> the transport's work -> checksums -> continue -> comparison

A server that fails on the way is left out, and the others are not kept waiting for longer than the
deadline of a call. What differs, or failed, gets no requests until a sync succeeds with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from megatron_stare.config.rollout import ServersConfig
from megatron_stare.engines.sglang.client import Server
from megatron_stare.engines.sglang.pool import ServerPool
from megatron_stare.engines.sglang.sync.checksums import Checksums
from megatron_stare.engines.sglang.sync.disk import DiskTransport
from megatron_stare.engines.sglang.sync.distributed import DistributedTransport
from megatron_stare.engines.sglang.sync.recipients import Recipients, Run
from megatron_stare.engines.sglang.sync.server_layout import ServerLayout
from megatron_stare.engines.sglang.sync.tensor import TensorTransport
from megatron_stare.engines.sglang.sync.transport import Transport
from megatron_stare.engines.sglang.sync.weights import Weights, largest_bytes
from megatron_stare.weights.checked import checked
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.names import hf_shapes

_MIB = 1 << 20


class WeightSync:
    """Syncs of the network in `model_folder` to the servers of a connected pool.

    `run` runs coroutines on the loop of the servers' connections.
    """

    def __init__(
        self,
        config: ServersConfig,
        pool: ServerPool,
        model_folder: Path,
        *,
        weights_dir: Path,
        run: Run,
    ) -> None:
        self._config = config
        self._pool = pool
        self._model_folder = model_folder
        self._weights_dir = weights_dir
        self._run = run
        self._shape = read_hf_config(model_folder)
        self._shapes = hf_shapes(self._shape)
        self._transport: Transport | None = None
        self._version = -1

    def update(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> float:
        """Give every server the weights; those that have them are routable.

        Returns the seconds for which the servers were paused.

        Raises:
            ValueError: a name or a shape is not the network's, or a tensor is missing.
            UserError: fewer than `min_servers` took them.
        """
        recipients = self._assemble()
        transport = self._transport = self._transport or self._make_transport()
        weights = self._weights(tensors, version, recipients)
        try:
            transport.send(weights, recipients)
            found = self._run(recipients.checksums(weights.checksums.skipped))
        finally:
            self._run(recipients.resume())
        self._version = version
        for server in self._pool.servers:
            self._judge(server, weights, recipients, found)
        self._run(self._pool.settle(version))
        return recipients.paused_s

    def close(self) -> None:
        """Release what the transport holds. The servers keep their weights."""
        if self._transport is not None:
            self._transport.close(self._run)

    def _assemble(self) -> Recipients:
        recipients = Recipients(
            self._run(self._pool.refresh()),
            last_version=self._version,
            run=self._run,
            deadline_s=self._config.sync_deadline_s,
        )
        deadline_s = self._config.health_deadline_s
        for server in self._run(recipients.check_networks(self._shapes, deadline_s=deadline_s)):
            self._pool.report(
                f"{server.url}: its model's folder is not on this machine, so that it has the "
                "names and shapes of model.path was not seen"
            )
        for server in self._pool.servers:
            server.is_routable = False
        return recipients

    def _weights(
        self, tensors: Iterable[tuple[str, Tensor]], version: int, recipients: Recipients
    ) -> Weights:
        """What is sent, with checksums of a share of it where every server had all before."""
        kind = self._pool.kind
        dtype = getattr(torch, kind.dtype)
        layout = ServerLayout(kind.device, kind.tensor_parallel, self._shape.num_kv_heads)
        all_faithful = all(server in recipients.faithful for server in recipients.servers)
        checksums = Checksums(self._shapes, layout, version if all_faithful else None)
        return Weights(
            checked(tensors, self._shapes),
            version,
            dtype,
            checksums,
            largest_bytes(self._shapes, dtype),
        )

    def _make_transport(self) -> Transport:
        config, kind = self._config, self._pool.kind
        if config.transport == "disk":
            return DiskTransport(self._model_folder, self._weights_dir)
        if config.transport == "tensor":
            return TensorTransport(
                bucket_bytes=int(config.bucket_mib * _MIB),
                num_ranks=kind.tensor_parallel,
            )
        return DistributedTransport(
            bucket_bytes=int(config.bucket_mib * _MIB),
            num_ranks=kind.tensor_parallel,
            server_device=kind.device,
            host=config.sync_host,
            connect_s=config.health_deadline_s,
        )

    def _judge(
        self,
        server: Server,
        weights: Weights,
        recipients: Recipients,
        found: Mapping[Server, Mapping[str, str]],
    ) -> None:
        if server in recipients.lost:
            reason = f"did not take weights {weights.version}: {recipients.lost[server]}"
            self._pool.leave_out(server, reason)
        elif names := weights.checksums.differing(found[server]):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            self._pool.leave_out(server, f"its {names[0]}{more} is not what was sent")
        else:
            server.is_routable = True
