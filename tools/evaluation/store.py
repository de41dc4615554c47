"""The folder of an evaluation: what was asked, and every finished shard of the work as one Parquet file.

A shard is there whole or not at all, under a name that its work decides. So a kill loses only what was being drawn,
nothing is counted twice, and another worker may redo what a dead one had begun.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from PIL import Image

from evaluation.prompts import Prompt

PICTURES = pa.schema(
    [
        ("model", pa.string()),
        ("setting", pa.string()),
        ("prompt_index", pa.int64()),
        ("source", pa.string()),  # COCO image id, or line
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("steps", pa.int32()),
        ("seconds_encode", pa.float64()),
        ("seconds_sample", pa.float64()),
        ("seconds_decode", pa.float64()),
        ("seconds_score", pa.float64()),
        ("macs", pa.int64()),  # multiply-accumulates, attention products included
        ("macs_linear", pa.int64()),  # as the paper counts them
        ("clip_score", pa.float32()),
        ("lpips", pa.float32()),
        ("notes", pa.string()),
        ("picture", pa.string()),  # where it was kept, below the folder
        ("device", pa.string()),
        ("error", pa.string()),
        ("features", pa.list_(pa.float32())),  # what FID sees
    ]
)
REAL_PICTURES = pa.schema([("file", pa.string()), ("error", pa.string()), ("features", pa.list_(pa.float32()))])


class StoreError(RuntimeError):
    """The folder cannot be used for this evaluation."""


@dataclass(frozen=True)
class Shard:
    """A unit of work: some prompts through every setting of one model, or (without a model) some real pictures."""

    number: int
    prompts: tuple[Prompt, ...] = ()
    model: str | None = None
    files: tuple[str, ...] = field(default=())

    @property
    def path(self) -> Path:
        folder = Path("models") / self.model if self.model else Path("real")
        return "shards" / folder / f"{self.number:06d}.parquet"


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root

    def lock(self) -> AbstractContextManager[Any]:
        """Held by the one evaluation that works in this folder; freed by the system when it ends, however."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            return FileLock(self.root / ".lock").acquire(timeout=0)
        except Timeout:
            raise StoreError(f"Another evaluation is working in {self.root}.") from None

    def adopt(self, identity: dict[str, Any]) -> None:
        """Record what is asked, or raise StoreError where the folder holds the work of something else."""
        identity = json.loads(json.dumps(identity))
        file = self.root / "run.json"
        if not file.exists():
            _write_whole(file, json.dumps(identity, indent=1).encode())
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        differing = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
        if differing:
            raise StoreError(
                f"{self.root} holds another evaluation; it differs in: {', '.join(differing)} (see run.json there). "
                "Name another folder, or give the same options to go on with that one."
            )

    def asked(self) -> dict[str, Any] | None:
        """What `adopt` has recorded."""
        file = self.root / "run.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def has(self, shard: Shard) -> bool:
        return (self.root / shard.path).is_file()

    def write(self, shard: Shard, records: Sequence[dict[str, Any]]) -> None:
        table = pa.Table.from_pylist(list(records), PICTURES if shard.model else REAL_PICTURES)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        _write_whole(self.root / shard.path, sink.getvalue().to_pybytes())

    def keep_picture(self, picture: torch.Tensor, model: str, setting: str, prompt: Prompt) -> str:
        """Save a picture, uint8 (1, height, width, 3); returns its path below the folder."""
        path = Path("pictures") / model / setting / f"{prompt.index:06d}.png"
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[0].numpy()).save(self.root / path)
        return path.as_posix()

    def real(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The records of the real pictures, a shard at a time."""
        yield from self._tables(Path("shards") / "real", columns)

    def pictures(self, model: str, setting: str | None = None, columns: Sequence[str] | None = None):
        """The records of a model's pictures, or of one setting's, a shard at a time."""
        only = [("setting", "=", setting)] if setting else None
        yield from self._tables(Path("shards") / "models" / model, columns, only)

    def write_records(self, models: Sequence[str]) -> Path:
        """All pictures' records, without features, as the one file `records.parquet`."""
        columns = [name for name in PICTURES.names if name != "features"]
        path, partial = self.root / "records.parquet", self.root / "records.parquet.partial"
        with pq.ParquetWriter(partial, pa.schema([PICTURES.field(name) for name in columns])) as writer:
            for model in models:
                for table in self.pictures(model, columns=columns):
                    writer.write_table(table)
        partial.replace(path)
        return path

    def _tables(self, folder: Path, columns: Sequence[str] | None, only: Any = None) -> Iterator[pa.Table]:
        for file in sorted((self.root / folder).glob("*.parquet")):
            yield pq.read_table(
                file, columns=None if columns is None else list(columns), filters=only, partitioning=None
            )


def _write_whole(path: Path, content: bytes) -> None:
    """The file appears complete, on the disk, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
