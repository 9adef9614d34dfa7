"""Texts and arrays of an HDF5 file, read in a process of its own.

HDF5 is a C library that crashes, loops for ever or takes all memory on some broken files: mutated ones did all three.
Here that is an error like any other. No link that leads elsewhere is followed, and nothing in a file is executed.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 30  # for a file, and one more for each 20 MB
ROOM = 2**31  # bytes of memory that reading may take, beyond some copies of the file
TEXT, ARRAY, ODD = "text ", "array ", "odd "  # begin the names of what the process gives


def library() -> Any:
    """h5py. Errors: ImportError."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise ImportError("Keras' files need the library h5py: install it with pip install 'openlstm[keras]'") from None
    return h5py


def read(data: bytes, texts: Sequence[str]) -> tuple[dict[str, str], dict[str, np.ndarray | None]]:
    """The texts among the root's attributes that have these names, and all arrays of floats by their paths.

    None stands for an array that is stored in chunks, compressed, elsewhere, or has other numbers. Errors: ValueError.
    """
    package = str(Path(__file__).parents[2])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, *texts],
            input=data,
            capture_output=True,
            timeout=SECONDS + len(data) / 2e7,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired:
        raise ValueError("HDF5 finds no end in it: the file is broken") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(lines[-1][:200] if lines else f"HDF5 broke down on it ({done.returncode}): the file is broken")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as file:
        given = {name: file[name] for name in file.files}
    arrays: dict[str, np.ndarray | None] = {n.removeprefix(ARRAY): a for n, a in given.items() if n.startswith(ARRAY)}
    arrays |= {name.removeprefix(ODD): None for name in given if name.startswith(ODD)}
    found = {name.removeprefix(TEXT): a.tobytes().decode() for name, a in given.items() if name.startswith(TEXT)}
    return found, arrays


def _datasets(h5: Any, group: Any, path: str, seen: set[Any]) -> Iterator[tuple[str, Any]]:
    """All arrays in a group, each once, by what leads to them."""
    for name in group:
        if group.id.links.get_info(name.encode()).type != h5.h5l.TYPE_HARD:
            continue
        member = group[name]
        address = h5.h5o.get_info(member.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(member, h5.Group):
            yield from _datasets(h5, member, f"{path}{name}/", seen)
        elif isinstance(member, h5.Dataset):
            yield path + name, member


def _array(h5: Any, stored: Any, size: int) -> np.ndarray | None:
    """An array of floats that is plainly stored, in a file of that many bytes."""
    made = stored.id.get_create_plist()
    plain = made.get_layout() in (h5.h5d.CONTIGUOUS, h5.h5d.COMPACT) and not made.get_external_count()
    bytes_ = stored.size * stored.dtype.itemsize if stored.size is not None else 0
    # bfloat16 is in no type of HDF5: it comes as two bytes, with its name beside.
    small = stored.dtype.kind == "V" and stored.dtype.itemsize == 2 and "dtype" in stored.attrs
    if not plain or stored.id.get_storage_size() != bytes_ or not 0 < bytes_ <= size:
        return None
    if not small and stored.dtype.kind != "f":
        return None
    found: np.ndarray = stored[()]
    return (found.view(np.uint16).astype(np.uint32) << 16).view(np.float32) if small else np.asarray(found)


def _limit(size: int) -> None:
    """Where the system can: no more memory than this process has, some copies of the file, and `ROOM`."""
    try:
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + 4 * size + ROOM,) * 2)
    except (ImportError, OSError, ValueError):  # other systems have neither
        pass


def _main(texts: Sequence[str]) -> None:
    h5, data = library(), sys.stdin.buffer.read()
    _limit(len(data))
    found: dict[str, Any] = {}
    with h5.File(io.BytesIO(data), "r") as root:
        for name in texts:
            if name in root.attrs:
                text = root.attrs[name]
                if not isinstance(text, (str, bytes)):
                    raise ValueError(f"its {name} is no text")
                found[TEXT + name] = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)
        for path, stored in _datasets(h5, root, "", set()):
            array = _array(h5, stored, len(data))
            found[ODD + path if array is None else ARRAY + path] = np.zeros(0) if array is None else array
    out = io.BytesIO()
    np.savez(out, **found)
    sys.stdout.buffer.write(out.getvalue())


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except Exception as error:  # h5py raises whatever HDF5's failures resemble
        sys.exit(" ".join(f"{error}".split())[:300] or type(error).__name__)
