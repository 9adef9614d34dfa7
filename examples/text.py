"""Makes a text to train a character model on: the sources of Python's own library, 5 million characters.

    python examples/text.py python.txt
    openlstm train text python.txt
    openlstm evaluate runs/python/model.safetensors another.py
    openlstm sample runs/python/model.safetensors --prompt "def " --temperature 0.7

Any other text in UTF-8 will do as well.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

# Tests, and files that hold tables rather than a program.
LEFT_OUT = {"test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data", "site-packages", "__pycache__"}


def library(characters: int) -> str:
    """The first so many characters of Python's library, its files in the order of their names."""
    folder = Path(sysconfig.get_path("stdlib"))
    sources = sorted(path for path in folder.rglob("*.py") if not LEFT_OUT & set(path.relative_to(folder).parts))
    texts, count = [], 0
    for path in sources:
        if count < characters:
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
            count += len(texts[-1])
    return "".join(texts)[:characters]


def main() -> None:
    """Writes the text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--characters", type=int, default=5_000_000, help="so many (%(default)s)")
    given = parser.parse_args()
    written = given.out.write_text(library(given.characters), encoding="utf-8")
    print(f"Wrote {written:,} characters to {given.out}")


if __name__ == "__main__":
    main()
