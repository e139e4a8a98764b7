"""Latents on disk: shards of safetensors, which several processes write and any process maps into memory.

An entry is named by a digest of all that it follows from, so a stale one is never read, and trainings share what they
have in common. A shard appears whole or not at all; a process that is killed loses what it had not yet written, and
what is missing is encoded the next time.
"""

import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from utils.cli import printable
from utils.files import explain_full_disk, whole_file

SHARD_BYTES = 64 * 2**20


class LatentCache:
    """The entries in a folder, which is made if need be: tensors by name."""

    def __init__(self, folder: Path):
        self.folder, self.places, self.shards = folder, {}, {}
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def refresh(self) -> None:
        """Look for shards that have come since, from other processes too. A damaged one is named and left out."""
        known = set(self.places.values())
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path in known:
                continue
            try:
                with safe_open(path, framework="pt") as shard:
                    self.places |= dict.fromkeys(shard.keys(), path)
            except (SafetensorError, OSError) as error:
                print(
                    f"warning: {printable(path)} is damaged ({error}); its latents are encoded again", file=sys.stderr
                )

    def __contains__(self, name: str) -> bool:
        return name in self.places

    def load(self, name: str) -> Tensor:
        """Raises OSError if its shard can no longer be read."""
        path = self.places[name]
        try:
            if path not in self.shards:
                self.shards[path] = safe_open(path, framework="pt")
            return self.shards[path].get_tensor(name)
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error

    def __getstate__(self) -> dict:
        return self.__dict__ | {"shards": {}}  # a spawned worker maps them itself


class ShardWriter:
    """Collects entries for a cache and writes a shard whenever they are SHARD_BYTES; `close` writes the rest.

    expected: bytes of all entries that are to come, for the message of a full disk.
    """

    def __init__(self, cache: LatentCache, expected: int):
        self.cache, self.expected, self.entries = cache, expected, {}

    def add(self, names: Iterable[str], tensors: Iterable[Tensor]) -> None:
        self.entries |= {name: tensor.contiguous() for name, tensor in zip(names, tensors, strict=True)}
        if sum(tensor.nbytes for tensor in self.entries.values()) >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Raises UserError if the disk is full."""
        if not self.entries:
            return
        path = self.cache.folder / f"{uuid.uuid4().hex}.safetensors"
        remedy = "make room, or give a --latent_cache on another disk"
        with explain_full_disk(path, self.expected, remedy), whole_file(path) as partial:
            save_file(self.entries, partial)
        self.cache.places |= dict.fromkeys(self.entries, path)
        self.expected -= sum(tensor.nbytes for tensor in self.entries.values())
        self.entries = {}
