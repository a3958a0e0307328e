"""The digest of a file, computed beside its writing and reading."""

from __future__ import annotations

import collections
import hashlib
import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor

from .interfaces import AnyPath, CheckpointError

CHUNK = 8 << 20
_checkers = ThreadPoolExecutor(2, "digest")  # two keep pace with the disk


def _new_checkers() -> None:
    global _checkers
    _checkers = ThreadPoolExecutor(2, "digest")


os.register_at_fork(after_in_child=_new_checkers)  # threads don't survive a fork


_Part = tuple[bytes | memoryview, object]  # bytes, and what keeps their memory alive


class _Digest:
    """SHA-256 over the CRC-32 of each piece (at most 8 MiB), computed while pieces are written.

    It finds accidents, not attacks. It catches every flipped bit and every damaged run of up to 32
    bits, and misses other damage once in 4 billion times. (torch.save writes the same CRC-32 into
    its files; torch.load ignores it.)
    """

    def __init__(self) -> None:
        self.pieces: collections.deque[tuple[int, Future[int]]] = collections.deque()
        self.whole = hashlib.sha256()

    def update(self, piece: bytes | memoryview, owner: object = None) -> None:
        """Add `piece`; `owner` keeps its memory alive until it is read."""
        if len(self.pieces) == 6:  # bounds the memory that pending pieces hold
            self._take()
        self.pieces.append((len(piece), _checkers.submit(_crc, [(piece, owner)])))

    def _take(self) -> None:
        length, crc = self.pieces.popleft()
        self.whole.update(length.to_bytes(8, "little") + crc.result().to_bytes(4, "little"))

    def digest(self) -> bytes:
        while self.pieces:
            self._take()
        return self.whole.digest()


def _crc(parts: list[_Part]) -> int:
    crc = 0
    for part, _ in parts:
        crc = zlib.crc32(part, crc)
    return crc


class _FileDigest(_Digest):
    """The same, but of pieces of exactly 8 MiB (and a shorter last one), whatever comes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[_Part] = []
        self.length = 0

    def update(self, piece: bytes | memoryview, owner: object = None) -> None:
        view = memoryview(piece)
        while view:
            part = view[: CHUNK - self.length]
            self.parts.append((part, owner))
            self.length += len(part)
            view = view[len(part) :]
            if self.length == CHUNK:
                self._close()

    def _close(self) -> None:
        if len(self.pieces) == 6:
            self._take()
        if self.length:
            self.pieces.append((self.length, _checkers.submit(_crc, self.parts)))
        self.parts, self.length = [], 0

    def digest(self) -> bytes:
        self._close()
        return super().digest()


def digest_of(path: AnyPath) -> str:
    """Digest (hex) of a file, as the manifest holds it."""
    digest = _FileDigest()
    try:
        with open(path, "rb", buffering=0) as f:
            while piece := f.read(CHUNK):
                digest.update(piece)
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    return digest.digest().hex()
