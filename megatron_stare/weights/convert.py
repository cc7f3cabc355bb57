"""`megatron-stare convert`: Hugging Face folders to Megatron-Core checkpoints and back."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from megatron_stare.config.policy import ParallelConfig
from megatron_stare.observe.console import Progress, open_console, print_line
from megatron_stare.weights.conversion import Conversion, run_conversion
from megatron_stare.weights.hf_to_megatron import HfToMegatron
from megatron_stare.weights.megatron_to_hf import MegatronToHf


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What the command line says.

    hf        of a Megatron checkpoint: the folder with its config.json and tokenizer
    layout    that a Megatron checkpoint is for; it is the same for any
    dtype     to store the weights in; None keeps theirs
    threads   parameters under way at a time; None decides
    """

    source: Path
    destination: Path
    hf: Path | None = None
    layout: ParallelConfig = field(default_factory=ParallelConfig)
    dtype: str | None = None
    threads: int | None = None
    force: bool = False
    dry_run: bool = False


def hf_to_megatron(options: ConvertOptions) -> None:
    """A Hugging Face folder becomes a torch_dist checkpoint.

    Raises:
        UserError: bad input, or a layout that does not divide the network.
    """
    conversion = HfToMegatron(options.source, dtype=_dtype(options))
    conversion.shape.check_parallel(options.layout)
    _convert(conversion, options)


def megatron_to_hf(options: ConvertOptions) -> None:
    """A torch_dist checkpoint becomes a Hugging Face folder.

    Raises:
        UserError: bad input.
    """
    _convert(MegatronToHf(options.source, hf=options.hf, dtype=_dtype(options)), options)


def _dtype(options: ConvertOptions) -> torch.dtype | None:
    return None if options.dtype is None else getattr(torch, options.dtype)


def _convert(conversion: Conversion, options: ConvertOptions) -> None:
    console = open_console(quiet=False)
    if options.dry_run:
        for parameter in conversion.parameters:
            print_line(console, str(parameter))
        return
    start = time.perf_counter()
    progress = Progress(console, bars=True)
    with progress.phase("convert", total=len(conversion.parameters)) as advance:
        num_already = run_conversion(
            conversion,
            options.destination,
            force=options.force,
            threads=options.threads or min(8, os.cpu_count() or 1),
            on_done=advance,
        )
    seconds = time.perf_counter() - start
    size = sum(p.place.num_elements * p.dtype.itemsize for p in conversion.parameters) / 1e9
    kept = f", {num_already} of them by the run before" if num_already else ""
    print_line(
        console,
        f"{options.destination}: {len(conversion.parameters)} parameters{kept}, "
        f"{size:.2f} GB in {seconds:.1f} s",
    )
