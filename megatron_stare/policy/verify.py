"""`megatron-stare verify`: are two models the same, tensor by tensor and token by token?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from pydantic import Field, TypeAdapter, ValidationError
from rich.console import Console
from torch import Tensor

from megatron_stare.errors import UserError
from megatron_stare.launch.topology import init_process_group, read_topology
from megatron_stare.observe.console import Progress, open_console, print_line
from megatron_stare.system.json_file import read_json
from megatron_stare.weights.compare import Difference, ModelFolder, compare_tensors, open_model
from megatron_stare.weights.refusals import refusals_named

SHOWN = 5
RANDOM_SEQUENCES, RANDOM_TOKENS = 4, 64


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What the command line says.

    hf              the folder with the config.json of a Megatron checkpoint that has none
    tokens          JSON file, a list of lists of token ids; None takes random ones
    tensors_only    leave log-probs out: they take both models into memory, one after the other
    tolerance       relative difference that a tensor may have; 0 wants the same dtype and bits
    logprob_atol    difference that the log-prob of a token may have, nats
    """

    a: Path
    b: Path
    hf: Path | None = None
    tokens: Path | None = None
    tensors_only: bool = False
    tolerance: float = 0.0
    logprob_atol: float = 1e-3


def verify(options: VerifyOptions) -> bool:
    """Print the worst tensors and tokens; return whether all are within their tolerances.

    Raises:
        UserError: bad input, or models of different networks.
    """
    console = open_console(quiet=False)
    a, b = open_model(options.a, options.hf), open_model(options.b, options.hf)
    is_same = _verify_tensors(a, b, options.tolerance, console)
    if options.tensors_only:
        return is_same
    sequences = _sequences(options.tokens, a.shape.vocab_size)
    of_a, of_b = _logprobs(options.a, a, sequences), _logprobs(options.b, b, sequences)
    return _verify_logprobs(of_a, of_b, options.logprob_atol, console) and is_same


def _verify_tensors(a: ModelFolder, b: ModelFolder, tolerance: float, console: Console) -> bool:
    differences: list[Difference] = []
    with Progress(console, bars=True).phase("compare", total=None) as advance:
        for difference in compare_tensors(a, b):
            differences.append(difference)
            advance(1)
    identical = sum(difference.is_identical for difference in differences)
    print_line(console, f"tensors: {identical} of {len(differences)} bit-identical")
    worst = [d for d in sorted(differences, key=_badness) if not d.is_identical][:SHOWN]
    for difference in worst:
        print_line(console, _line(difference))
    return all(d.relative <= tolerance if tolerance else d.is_identical for d in differences)


def _line(difference: Difference) -> str:
    a, b = (str(dtype).removeprefix("torch.") for dtype in difference.dtypes)
    return (
        f"  {difference.name} ({a} and {b}): {difference.largest:.3g} apart at most, "
        f"{difference.relative:.3g} of its largest entry"
    )


def _badness(difference: Difference) -> float:
    """Worst first."""
    return -math.inf if math.isnan(difference.relative) else -difference.relative


def _sequences(path: Path | None, vocab_size: int) -> list[Tensor]:
    if path is None:
        generator = torch.Generator().manual_seed(0)
        size = RANDOM_SEQUENCES, RANDOM_TOKENS
        return list(torch.randint(vocab_size, size, generator=generator))
    token = Annotated[int, Field(strict=True, ge=0, lt=vocab_size)]
    sequence = Annotated[list[token], Field(min_length=2)]
    sequences: Any = Annotated[list[sequence], Field(min_length=1)]
    expected = f"a JSON list of lists of two or more token ids below {vocab_size}"
    try:
        found = TypeAdapter(sequences).validate_python(read_json(path, expected))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = "".join(f"[{part}]" for part in problem["loc"])
        raise UserError(f"{path}: expected {expected}; {where} {problem['msg'].lower()}") from None
    return [torch.tensor(ids) for ids in found]


def _logprobs(folder: Path, model: ModelFolder, sequences: Sequence[Tensor]) -> list[Tensor]:
    """A Megatron checkpoint's through the trainer's own network, others' through transformers."""
    if not model.is_megatron:
        return _transformers_logprobs(folder, sequences)
    from megatron_stare.policy.model_checkpoint import checkpoint_logprobs

    topology = read_topology()
    init_process_group(topology)
    try:
        return checkpoint_logprobs(folder, model.hf, sequences, device=topology.device)
    finally:
        dist.destroy_process_group()


@torch.no_grad()
def _transformers_logprobs(folder: Path, sequences: Sequence[Tensor]) -> list[Tensor]:
    from transformers import AutoModelForCausalLM

    with refusals_named(folder):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    logprobs = []
    for tokens in sequences:
        everything = model(tokens.unsqueeze(0)).logits[0, :-1].log_softmax(-1)
        logprobs.append(everything.gather(1, tokens[1:].unsqueeze(1)).squeeze(1))
    return logprobs


def _verify_logprobs(
    a: Sequence[Tensor], b: Sequence[Tensor], atol: float, console: Console
) -> bool:
    differences = [(left - right).abs() for left, right in zip(a, b, strict=True)]
    worst = max(range(len(a)), key=lambda number: differences[number].nan_to_num(math.inf).max())
    token = int(differences[worst].nan_to_num(math.inf).argmax())
    largest = differences[worst][token].item()
    print_line(
        console,
        f"log-probs: of {sum(map(len, a))} tokens the worst is {largest:.2e} nats apart "
        f"({a[worst][token]:.6f} and {b[worst][token]:.6f}: sequence {worst}, token {token + 1})",
    )
    return largest <= atol
