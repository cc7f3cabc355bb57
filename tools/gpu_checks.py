"""The checks of gpu_check.py: each returns what it measured, as Markdown, or says what is wrong.

A check that cannot be done here raises `Skipped`; whatever else is raised is a failure. All work on
networks that are made, so that they need no files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import bench_logprob_entropy
import torch
import transformers
from bench_weight_sync import make_model, open_sync
from torch import Tensor

from megatron_stare.config.policy import OptimConfig
from megatron_stare.config.sft import SftConfig
from megatron_stare.engines.sglang.serve import ServeOptions, running_servers
from megatron_stare.ops.head_kernels import Disagreement, disagreement, triton_kernels
from megatron_stare.policy.memory import offload, onload
from megatron_stare.run.session import Session, open_session, open_world
from megatron_stare.sft import sft_step
from megatron_stare.types import TokenBatch

CUDA = torch.device("cuda")
STEPS = 3
VOCAB_SIZE = 512


class Skipped(Exception):
    """Why a check is not done here."""


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes of the head, and where the servers' Python is."""

    tokens: int
    vocab: int
    hidden: int
    python: Path


def versions(options: Options) -> str:
    """What is installed, and what it runs on."""
    import transformer_engine.pytorch  # noqa: F401  # pyright: ignore[reportMissingImports]

    names = ("torch", "triton", "megatron-core", "transformer-engine", "transformers")
    found = {name: metadata.version(name) for name in names}
    found["CUDA of torch"] = str(torch.version.cuda)
    found["GPUs"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    with contextlib.suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, check=False)
        found["driver"] = done.stdout.split("\n")[0]
    return table(("of", "version"), *found.items())


def kernels(options: Options) -> str:
    """The head's Triton kernels next to torch, in both 16-bit types."""
    rows = []
    for dtype in (torch.bfloat16, torch.float16):
        errors = disagreement(triton_kernels(), CUDA, dtype)
        allowed = Disagreement.allowed(dtype)
        rows.append((str(dtype), *(f"{error:.2g}" for error in errors)))
        wrong = [e > bound or math.isnan(e) for e, bound in zip(errors, allowed, strict=True)]
        assert not any(wrong), f"errors {errors}, at most {allowed} in {dtype}"
    return table(("type", "error of partials", "of d_logits"), *rows)


def head(options: Options) -> str:
    """Time, memory and error of the head beside its matmuls, and beside others' where there are."""
    sizes = {"tokens": options.tokens, "vocab": options.vocab, "hidden": options.hidden}
    settings = {"dtype": "bfloat16", "device": "cuda", "repeats": 5, "threads": 1}
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        arguments = argparse.Namespace(**sizes, **settings)
        bench_logprob_entropy.bench(0, arguments, 1, f"{folder}/store")
    return printed.getvalue()


def step(options: Options) -> str:
    """SFT steps with Transformer Engine and FusedAdam, next to float32 on the CPU."""
    batch = made_batch()
    with made_session() as (session, network):
        check_layers(session)
        expected = cpu_steps(network, session.config.optim, batch)
        found = [sft_step(session, batch, max_bad_updates=1) for _ in range(STEPS)]
    rows = []
    for number, (metrics, (loss, norm)) in enumerate(zip(found, expected, strict=True), 1):
        rows.append((number, metrics["sft/loss"], loss, metrics["optim/grad_norm"], norm))
        assert math.isclose(metrics["sft/loss"], loss, rel_tol=0.01), rows
        assert math.isclose(metrics["optim/grad_norm"], norm, rel_tol=0.05), rows
    return table(("step", "loss", "on the CPU", "gradient norm", "on the CPU"), *rows)


def attention(options: Options) -> str:
    """Which attention Transformer Engine takes for packed samples."""
    from transformer_engine.pytorch.attention.dot_product_attention import (  # pyright: ignore[reportMissingImports]
        dot_product_attention,
    )

    batch = made_batch()
    with made_session() as (session, _):
        share = session.plan(batch, [list(range(len(batch)))])
        session.policy.score(batch, share.micro_batches)
    backends = dot_product_attention._attention_backends
    # In the order in which it takes them.
    ways = ("flash_attention", "fused_attention", "unfused_attention")
    chosen = next(way for way in ways if backends[f"use_{way}"])
    reason = "neither flash nor cuDNN's: memory grows with the square of the longest sample"
    assert chosen != "unfused_attention", reason
    return f"`{chosen}` for thd, bfloat16, heads of 64\n"


def offloading(options: Options) -> str:
    """A policy leaves the GPU and comes back as it was."""
    batch = made_batch()
    with made_session() as (session, _):
        sft_step(session, batch, max_bad_updates=1)
        before = {name: p.detach().cpu() for name, p in session.policy.named_parameters()}
        held = [torch.cuda.memory_allocated()]
        offload(session.policy)
        held.append(torch.cuda.memory_allocated())
        left = sum(p.untyped_storage().nbytes() for _, p in session.policy.named_parameters())
        assert left == 0, f"{left} bytes of parameters stay on the device"
        onload(session.policy)
        held.append(torch.cuda.memory_allocated())
        for name, parameter in session.policy.named_parameters():
            assert torch.equal(parameter.detach().cpu(), before[name]), f"{name} came back changed"
        metrics = sft_step(session, batch, max_bad_updates=1)
        assert not metrics["optim/skipped"], metrics
    mib = [f"{num_bytes / 2**20:.1f}" for num_bytes in held]
    return table(("MiB before", "away", "back"), mib)


def sync(options: Options) -> str:
    """One SGLang server takes the weights by every transport, and checks them by its hashes."""
    if not options.python.exists():
        raise Skipped(f"no servers' environment: {options.python} is not there")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = argparse.Namespace(layers=4, dtype="bfloat16", bucket_mib=64.0)
        model, tensors = make_model(folder / "model", made)
        weights = {name: tensor.to(CUDA) for name, tensor in tensors.items()}
        with running_servers(serve_options(model, folder, options)) as servers:
            for transport in ("disk", "tensor", "distributed"):
                # NCCL takes no two ranks on one GPU: this one needs a server on another.
                if transport == "distributed" and len(servers) == 1 and on_a_gpu():
                    rows.append((transport, "skipped: needs a second GPU", ""))
                    continue
                (folder / transport).mkdir()
                urls = (servers[-1 if transport == "distributed" else 0].url,)
                with open_sync(urls, transport, model, folder / transport, made) as update:
                    times = [update(weights, version) for version in range(2)]
                rows.append((transport, times[-1].loop_s, times[-1].paused_s))
    return table(("transport", "seconds", "of them paused"), *rows)


def on_a_gpu() -> bool:
    """Whether servers are given GPUs: none are there under a rehearsal."""
    return Path("/dev/nvidiactl").exists()


def serve_options(model: Path, folder: Path, options: Options) -> ServeOptions:
    """One server, and with a second GPU one there."""
    num_gpus = torch.cuda.device_count() if on_a_gpu() else 0
    return ServeOptions(
        model=model,
        python=options.python.absolute(),
        servers=max(1, min(2, num_gpus)),
        host="127.0.0.1",
        port=0,
        registry=folder / "registry",
        dtype="bfloat16",
        tensor=1,
        num_gpus=num_gpus,
        deadline_s=240.0,
        extra=("--max-total-tokens", "2048"),
    )


def check_layers(session: Session) -> None:
    """That they are Transformer Engine's: torch's would be right, and slow."""
    modules = session.policy.model[0].modules()
    packages = {type(module).__module__.split(".")[0] for module in modules}
    assert "transformer_engine" in packages, "layers are torch's: Transformer Engine is not used"


@contextmanager
def made_session() -> Iterator[tuple[Session, torch.nn.Module]]:
    """A policy of four layers in bfloat16, on the GPU, and the network in float32, on the CPU."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        network = transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(
                vocab_size=VOCAB_SIZE,
                hidden_size=256,
                intermediate_size=512,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=64,
                max_position_embeddings=512,
                tie_word_embeddings=False,
                architectures=["Qwen3ForCausalLM"],
            )
        )
        for parameter in network.parameters():
            parameter.data = parameter.data.bfloat16().float()
        network.save_pretrained(folder / "model")
        config = SftConfig.model_validate(
            {
                "run": {"dir": folder / "run"},
                "model": {"path": folder / "model", "dtype": "bfloat16"},
                "data": {"path": folder / "unread.jsonl", "max_tokens": 512},
                "optim": {"lr": 1e-3},
                "log": {"progress": False},
            }
        )
        with open_world(config) as world:
            session = open_session(
                config, world, num_updates=STEPS, temperature=1.0, max_tokens_per_micro_batch=1024
            )
            yield session, network


def made_batch() -> TokenBatch:
    """Sixteen samples of different lengths, of random tokens."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, 32, (16,), generator=generator)
    responses = torch.randint(1, 96, (16,), generator=generator)
    num_tokens = int(prompts.sum() + responses.sum())
    return TokenBatch(
        token_ids=torch.randint(VOCAB_SIZE, (num_tokens,), generator=generator),
        prompt_lengths=prompts,
        response_lengths=responses,
        loss_mask=torch.ones(int(responses.sum()), dtype=torch.bool),
    )


def cpu_steps(
    model: torch.nn.Module, optim: OptimConfig, batch: TokenBatch
) -> list[tuple[float, float]]:
    """Loss and gradient norm of the same steps by transformers and torch, in float32."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )
    steps = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = _mean_loss(model, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_grad)
        optimizer.step()
        steps.append((float(loss.detach()), float(norm)))
    return steps


def _mean_loss(model: torch.nn.Module, batch: TokenBatch) -> Tensor:
    """Over all response tokens, in nats."""
    lengths = (batch.prompt_lengths + batch.response_lengths).tolist()
    losses = []
    for tokens, prompt in zip(batch.token_ids.split(lengths), batch.prompt_lengths, strict=True):
        logprobs = model(tokens[None]).logits[0, int(prompt) - 1 : -1].log_softmax(-1)
        losses.append(-logprobs.gather(1, tokens[int(prompt) :, None])[:, 0])
    return torch.cat(losses).mean()


def table(header: tuple[str, ...], *rows: Any) -> str:
    """A Markdown table; numbers with four digits."""
    lines = [header, ["---"] * len(header), *rows]
    shown = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in shown)
