"""Folders of checkpoints, each complete or not there at all.

    checkpoints/
      step_000020/            a checkpoint
        manifest.json         every other file with its size and CRC-32, what made them, its own CRC
        run_state.pt          data cursor, sampler, controller, ...: plain values
        .metadata, *.distcp   the policy, in Megatron-Core's format
      step_000030.unfinished/ being written, or left behind by a crash
      latest                  name of the newest, for people and tools

A checkpoint is written under its unfinished name, every file of it is made to reach the disk, and
then the folder gets its own name: a crash at any moment leaves whole checkpoints only. What happens
to them afterwards (a truncated file, a flipped bit), sizes and checksums tell.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_stare.checkpoint.manifest import MANIFEST, read_manifest, write_manifest
from megatron_stare.errors import UserError
from megatron_stare.system.durable_file import FileRecord
from megatron_stare.system.folders import UNFINISHED, flush, remove, replacing_file
from megatron_stare.system.reading import read_whole

CHECKPOINTS = "checkpoints"
LATEST, RUN_STATE = "latest", "run_state.pt"
_NAME = re.compile(r"step_([0-9]{6}|[1-9][0-9]{6,17})")
_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint and its manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """After which it was made."""
        return self.manifest["step"]

    @property
    def files(self) -> dict[str, FileRecord]:
        """Every file but the manifest."""
        return {name: FileRecord(**record) for name, record in self.manifest["files"].items()}


def begin(root: Path, step: int) -> Path:
    """An empty folder to write a step's checkpoint into; leftovers of crashes are removed."""
    root.mkdir(parents=True, exist_ok=True)
    remove_unfinished(root)
    folder = _folder_of(root, step)
    folder = folder.with_name(folder.name + UNFINISHED)
    folder.mkdir()
    return folder


def remove_unfinished(root: Path) -> None:
    """What a process has left that ended while it wrote or removed a checkpoint, or the pointer."""
    for leftover in root.glob(f"*{UNFINISHED}"):
        remove(leftover)


def commit(
    folder: Path, manifest: Mapping[str, Any], files: Mapping[str, FileRecord]
) -> Checkpoint:
    """Give a folder, whose files are all on the disk, its manifest, its name and the pointer."""
    whole = {**manifest, "files": {name: asdict(files[name]) for name in sorted(files)}}
    (folder / MANIFEST).write_bytes(write_manifest(whole))
    flush(folder / MANIFEST)
    flush(folder)
    final = folder.with_name(folder.name.removesuffix(UNFINISHED))
    remove(final)  # A damaged one, that the run has come past once more.
    folder.rename(final)
    flush(final.parent)
    with suppress(OSError):  # It is there; nobody relies on the pointer.
        _point_to(final)
    return Checkpoint(final, whole)


def _point_to(folder: Path) -> None:
    with replacing_file(folder.parent / LATEST, durably=True) as unfinished:
        unfinished.write_text(f"{folder.name}\n")


def steps_of(root: Path) -> list[int]:
    """Steps of which there is a folder, the newest first; `latest` is not asked.

    A copy under another name (`step_2`, `step_000002.old`) is none.
    """
    names = (_NAME.fullmatch(path.name) for path in root.glob("step_*"))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def marks_of(root: Path) -> dict[int, int]:
    """When the manifest of each step was written, in nanoseconds; 0 where there is none."""
    return {step: _mtime_ns(_folder_of(root, step) / MANIFEST) for step in steps_of(root)}


def _folder_of(root: Path, step: int) -> Path:
    return root / f"step_{step:06d}"


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def open_checkpoint(root: Path, step: int) -> Checkpoint:
    """Read a step's manifest.

    Raises:
        ValueError: it is missing, damaged or malformed; the message says where.
    """
    checkpoint = _open(_folder_of(root, step))
    if checkpoint.step != step or not checkpoint.files:
        raise ValueError(f"{checkpoint.folder / MANIFEST}: not of step {step}")
    return checkpoint


def check_undamaged(folder: Path) -> None:
    """See that every file of a checkpoint is as its manifest has it, where it has one.

    Raises:
        UserError: one is not, or the manifest is damaged; the message says which.
    """
    if not (folder / MANIFEST).exists():
        return
    try:
        checkpoint = _open(folder)
        damage = find_damage(checkpoint, sorted(checkpoint.files), checksums=True)
    except ValueError as error:
        damage = str(error)
    if damage is not None:
        raise UserError(f"{damage}; expected a whole checkpoint, or one without a {MANIFEST}")


def _open(folder: Path) -> Checkpoint:
    """ValueError where the manifest is missing, damaged or malformed."""
    path = folder / MANIFEST
    try:
        checkpoint = Checkpoint(folder, read_manifest(read_whole(path)))
        checkpoint.files  # noqa: B018  (That they are records is seen here.)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    return checkpoint


def find_damage(checkpoint: Checkpoint, names: Iterable[str], *, checksums: bool) -> str | None:
    """Which of these files is not as the manifest has it, and how; None if all are.

    Args:
        checksums: read the files; otherwise, their sizes are compared only.
    """
    for name in names:
        path, expected = checkpoint.folder / name, checkpoint.files[name]
        try:
            size = path.stat().st_size
            if size != expected.size:
                return f"{path}: {size} bytes, the manifest has {expected.size}"
            if checksums and record_of(path) != expected:
                return f"{path}: its checksum is not that of the manifest"
        except FileNotFoundError:
            return f"{path}: missing"
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
    return None


def prune(root: Path, *, keep_last: int, keep_every: int) -> None:
    """Remove checkpoints but the last ones, and those of every `keep_every`-th step (0: none)."""
    for step in steps_of(root)[keep_last:]:
        if keep_every == 0 or step % keep_every:
            # Under another name first: half a checkpoint must not look like one.
            folder = _folder_of(root, step)
            doomed = folder.with_name(folder.name + UNFINISHED)
            folder.rename(doomed)
            remove(doomed)


def records_of(paths: Sequence[Path]) -> dict[str, FileRecord]:
    """Have files reach the disk; their records by file name."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        # The disk writes while checksums are computed from memory.
        synced = executor.submit(lambda: [flush(path) for path in paths])
        records = {path.name: record_of(path) for path in paths}
        synced.result()
    return records


def record_of(path: Path) -> FileRecord:
    """Size and checksum of a file, read in pieces."""
    size = crc32 = 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            size, crc32 = size + len(piece), zlib.crc32(piece, crc32)
    return FileRecord(size, crc32)
