"""The digest of a file, computed beside its writing and reading."""

from __future__ import annotations

import collections
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from .interfaces import AnyPath, CheckpointError

CHUNK = 8 << 20
_THREADS = max(2, min(4, os.cpu_count() or 1))  # two keep pace with a disk, four with a page cache
_checkers = ThreadPoolExecutor(_THREADS, "digest")


def _new_checkers() -> None:
    global _checkers
    _checkers = ThreadPoolExecutor(_THREADS, "digest")


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


class _Reads:
    """Files being read into memory: several threads take a piece each.

    They compute its CRC while the cache still holds it. The caller keeps the memory alive until
    the block is left.
    """

    def __init__(self) -> None:
        self.running: list[Future[int]] = []

    def __enter__(self) -> _Reads:
        return self

    def __exit__(self, *_: object) -> None:
        wait(self.running)  # after an error, the others still write

    def start(self, path: AnyPath, views: Iterable[memoryview]) -> Callable[[], str]:
        """Fill `views` with the file's bytes, in order; return what waits for its digest.

        Views that can't be written hold their bytes already. What waits raises CheckpointError if
        the file ends early or can't be read.
        """
        pieces: list[tuple[int, Future[int]]] = []
        for start, parts in _pieces(views):
            pieces.append((sum(map(len, parts)), _checkers.submit(_read_piece, path, start, parts)))
        self.running += [piece for _, piece in pieces]
        return lambda: _digest_of_pieces(path, pieces)


def _pieces(views: Iterable[memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
    """The views in pieces of exactly 8 MiB (and a shorter last one): (offset, parts)."""
    start, length = 0, 0
    parts: list[memoryview] = []
    for view in views:
        while view:
            part = view[: CHUNK - length]
            parts.append(part)
            length += len(part)
            view = view[len(part) :]
            if length == CHUNK:
                yield start, parts
                start, length, parts = start + length, 0, []
    if parts:
        yield start, parts


def _read_piece(path: AnyPath, start: int, parts: list[memoryview]) -> int:
    crc = 0
    with open(path, "rb", buffering=0) as f:
        for part in parts:
            if not part.readonly:
                f.seek(start)
                if f.readinto(part) != len(part):
                    raise CheckpointError(f"{path} is damaged: it ends early")
            start += len(part)
            crc = zlib.crc32(part, crc)
    return crc


def _digest_of_pieces(path: AnyPath, pieces: Iterable[tuple[int, Future[int]]]) -> str:
    whole = _Digest()
    whole.pieces.extend(pieces)
    try:
        return whole.digest().hex()
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e


def digest_of(path: AnyPath) -> str:
    """Digest (hex) of a file, as the manifest holds it."""

    def piece(start: int, length: int) -> int:
        return _read_piece(path, start, [memoryview(bytearray(length))])

    try:
        size = os.stat(path).st_size
    except OSError as e:
        raise CheckpointError(f"{path} can't be read: {e}") from e
    sizes = {start: min(CHUNK, size - start) for start in range(0, size, CHUNK)}
    return _digest_of_pieces(path, [(n, _checkers.submit(piece, at, n)) for at, n in sizes.items()])
