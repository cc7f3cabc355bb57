"""A Megatron-Core checkpoint becomes a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from megatron_stare.errors import UserError
from megatron_stare.system.folders import flush
from megatron_stare.weights.conversion import HF_FOLDER, Parameter, write_hf_files
from megatron_stare.weights.finite import cast
from megatron_stare.weights.hf_config import read_hf_config
from megatron_stare.weights.layouts import VocabParallel
from megatron_stare.weights.megatron_keys import Place, place_of
from megatron_stare.weights.names import model_entries
from megatron_stare.weights.parts import Budget
from megatron_stare.weights.rules import Entry
from megatron_stare.weights.safetensors_writer import SafetensorsWriter, TensorSpec
from megatron_stare.weights.torch_dist import Checkpoint

MODEL_KEYS = ("embedding.", "decoder.", "output_layer.")
"""How the keys of a model begin; a training run's checkpoint holds others too."""


class MegatronToHf:
    """From a Megatron-Core checkpoint, of a training run or made here.

    Args:
        hf: the folder whose config.json and tokenizer are those of the model; None takes the
            checkpoint's own `hf`.
        dtype: what to store everything in; None keeps what the checkpoint has.

    Raises:
        UserError: not a torch_dist checkpoint, or its tensors are not those of the config.json.
    """

    def __init__(
        self,
        source: Path,
        *,
        hf: Path | None = None,
        dtype: torch.dtype | None = None,
        max_shard_bytes: int = 5 * 10**9,
    ) -> None:
        self.source, self.hf, self.dtype = Path(source), hf or Path(source) / HF_FOLDER, dtype
        self.checkpoint = Checkpoint(self.source)
        self.shape = read_hf_config(self.hf)
        entries = [e for e in model_entries(self.shape).values() if not e.is_copy]
        check_checkpoint(self.checkpoint, entries)
        self.parameters = [
            Parameter(entry, place, found, dtype or found)
            for entry in entries
            for place in [place_of(entry)]
            for found in [self.checkpoint.tensors[place.key].properties.dtype]
        ]
        specs = {
            name: TensorSpec(parameter.dtype, shape)
            for parameter in self.parameters
            for name, shape in parameter.entry.hf.items()
        }
        self.writer = SafetensorsWriter(specs, max_shard_bytes)

    @property
    def source_files(self) -> list[Path]:
        """Weights and config."""
        return [self.hf / "config.json", *self.checkpoint.files]

    def prepare(self, folder: Path) -> None:
        """Lay out the safetensors files."""
        self.writer.create(folder)

    def convert(self, folder: Path, number: int, part: Sequence[Parameter], budget: Budget) -> None:
        """Tensors into their places."""
        for parameter in part:
            with budget.hold(2 * parameter.num_bytes):
                tensor = self.checkpoint.read(parameter.place)
                tensor = cast(tensor, parameter.dtype, f"{self.source}: {parameter.names}")
                self.writer.write(folder, parameter.entry.merge([tensor]))
                del tensor
        for file in {f for p in part for f in self.writer.files_of(p.entry.hf)}:
            flush(folder / file)

    def finish(self, folder: Path, parts: Sequence[Sequence[Parameter]], results: list) -> None:
        """Config and tokenizer."""
        dtypes = {parameter.dtype for parameter in self.parameters}
        write_hf_files(self.hf, folder, self.shape, dtypes.pop() if len(dtypes) == 1 else None)


def check_checkpoint(checkpoint: Checkpoint, entries: Iterable[Entry]) -> None:
    """Check the keys and shapes of a checkpoint's model.

    Raises:
        UserError: a tensor is missing, unexpected, or of another shape than config.json says.
    """
    folder, places = checkpoint.folder, {}
    for entry in entries:
        place = place_of(entry)
        places[place.key] = place
        if place.key not in checkpoint.tensors:
            raise UserError(f"{folder}: config.json expects {place.key}, missing in the checkpoint")
        found = tuple(checkpoint.tensors[place.key].size)
        if isinstance(entry.layout, VocabParallel):
            found = _without_padding(found, entry, place, checkpoint)
        if found != place.global_shape:
            raise UserError(
                f"{folder}: {place.key} has shape {list(found)}, "
                f"expected {list(place.global_shape)} by config.json"
            )
    model = {key for key in checkpoint.tensors if key.startswith(MODEL_KEYS)}
    if unknown := sorted(model - places.keys()):
        raise UserError(f"{folder}: config.json's network has no {unknown[0]}")


def _without_padding(
    found: tuple[int, ...], entry: Entry, place: Place, checkpoint: Checkpoint
) -> tuple[int, ...]:
    """Without the zero rows that fill the vocabulary up to a multiple of a tensor-parallel size."""
    rows, true_rows = found[0], place.shape[0]
    sizes = range(1, entry.shape.num_heads + 1)
    if rows <= true_rows or rows not in {-(-true_rows // size) * size for size in sizes}:
        return found
    padding = checkpoint.read_part(place.key, (true_rows, 0), (rows - true_rows, found[1]))
    return found if padding.any() else (true_rows, *found[1:])
