"""What has a character model learned? Trains one on Python's own library and looks for units with a role.

    python examples/characters.py [--minutes 3] [--out characters]

The model reads a file that it has not seen. What a Python tokenizer says of each character (is it inside a string, a
comment, brackets; how deep is its line indented) is held against the memory of every unit, and the units that follow
best are named and shown. The trace, the model and the explorer's page are put into the folder `--out`.
"""

from __future__ import annotations

import argparse
import io
import string
import sysconfig
import time
import tokenize
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

import openlstm
from openlstm import file

ALPHABET = string.printable[:97] + "\N{REPLACEMENT CHARACTER}"  # which stands for all others
HELD_OUT = "textwrap.py"  # the file that is read at the end, and never trained on
FSTRING = tuple(getattr(tokenize, f"FSTRING_{name}", -1) for name in ("START", "END"))  # from Python 3.12 on
UNITS, STEPS, BATCH = 256, 100, 32


def read(path: Path) -> str:
    """The text of a source, in the alphabet."""
    text = path.read_text(encoding="utf-8", errors="replace").expandtabs(4)
    return "".join(c if c in ALPHABET else ALPHABET[-1] for c in text)


def encode(text: str) -> Tensor:
    """The numbers of characters."""
    return torch.tensor([ALPHABET.index(c) for c in text])


class Characters(nn.Module):
    """Reads characters (T, B), and for each gives the odds of the next one (T, B, characters)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 64)
        self.recurrent = openlstm.LSTM(64, UNITS, forget_bias=1.0)
        self.output = nn.Linear(UNITS, len(ALPHABET))

    def forward(self, text: Tensor, state: object = None) -> tuple[Tensor, object]:
        """The odds, and the state after the last character."""
        y, state = self.recurrent(self.embedding(text), state)
        return self.output(y), state


def train(model: Characters, text: str, minutes: float, console: Console) -> None:
    """Reads the text in order, BATCH places at once, each with the state from where it stopped."""
    stream = encode(text)
    lanes = stream[: len(stream) // BATCH * BATCH].view(BATCH, -1).t()  # (T, B)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    until, step, state, recent = time.monotonic() + 60 * minutes, 0, None, []
    while time.monotonic() < until:
        at = step * STEPS % (len(lanes) - STEPS - 1)
        if at < STEPS:
            state = None  # the text begins again
        elif state is not None:
            state = tuple(part.detach() for part in state)  # type: ignore[attr-defined]
        odds, state = model(lanes[at : at + STEPS], state)
        loss = nn.functional.cross_entropy(odds.flatten(0, 1), lanes[at + 1 : at + STEPS + 1].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-199:], loss.item()]
        step += 1
        if step % 500 == 0:
            console.print(f"step {step}: {np.mean(recent) / np.log(2):.2f} bits a character")
        # The rate falls to a tenth at the end.
        left = max(0.0, (until - time.monotonic()) / (60 * minutes))
        optimizer.param_groups[0]["lr"] = 2e-3 * (0.1 + 0.9 * left)


def roles(text: str) -> dict[str, np.ndarray]:
    """For each character: is it inside a string, a comment, brackets, a line that is indented by 8 or more."""
    starts = np.cumsum([0, *(len(line) for line in text.splitlines(keepends=True))])
    found = {name: np.zeros(len(text), bool) for name in ("string", "comment", "brackets", "indented")}
    depth = opened = begun = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        first, last = (starts[row - 1] + column for row, column in (token.start, token.end))
        if token.type == tokenize.STRING:
            found["string"][first:last] = True
        elif token.type == FSTRING[0]:
            begun = first
        elif token.type == FSTRING[1]:
            found["string"][begun:last] = True
        elif token.type == tokenize.COMMENT:
            found["comment"][first:last] = True
        elif token.type == tokenize.OP and token.string in "([{":
            depth += 1
            opened = first if depth == 1 else opened
        elif token.type == tokenize.OP and token.string in ")]}":
            depth -= 1
            if depth == 0:
                found["brackets"][opened:last] = True
    for line, start in zip(text.splitlines(keepends=True), starts, strict=False):
        found["indented"][start : start + len(line)] = len(line) - len(line.lstrip(" ")) >= 8
    # A unit knows of a character when it has read it: what it says there is whether the next one is inside too.
    return found


def show(text: str, values: np.ndarray) -> Text:
    """The text, each character on the colour of the unit's value there."""
    scale = np.abs(values).max() or 1.0
    shown = Text()
    for character, value in zip(text, values / scale, strict=True):
        strength = int(160 * abs(value))
        colour = f"rgb({40 + strength},40,40)" if value > 0 else f"rgb(40,{40 + strength // 2},{40 + strength})"
        shown.append(character, style=f"white on {colour}")
    return shown


def main() -> None:
    """Trains, looks, shows, and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to train (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("characters"), help="where results go (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    console = Console(highlight=False)
    torch.manual_seed(given.seed)
    library = Path(sysconfig.get_path("stdlib"))
    sources = sorted(path for path in library.glob("*.py") if path.name != HELD_OUT)
    model = Characters()
    console.print(f"Training for {given.minutes:g} minutes on {len(sources)} files of {library}")
    train(model, "".join(map(read, sources)), given.minutes, console)

    text = read(library / HELD_OUT)
    with torch.no_grad(), openlstm.trace(model, names=["i", "f", "o", "c", "h"]) as run:
        odds, _ = model(encode(text)[:, None])
    loss = nn.functional.cross_entropy(odds[:-1, 0], encode(text)[1:]).item() / np.log(2)
    trace = run["recurrent"]
    console.print(f"\n{HELD_OUT}, never seen: {loss:.2f} bits a character\n\n{trace.summary()}\n")
    table = Table("role", "unit", "match", "second", title="units whose memory follows a role best")
    best = {}
    for role, on in roles(text).items():
        first, second = trace.find(on)[:2]
        best[role] = first["unit"]
        table.add_row(role, str(first["unit"]), f"{first['match']:+.2f}", f"{second['match']:+.2f}")
    console.print(table)
    for role, unit in best.items():
        at = int(np.flatnonzero(roles(text)[role])[0]) - 80
        part = slice(max(0, at), at + 600)
        console.print(f"\n[bold]unit {unit}[/bold], {role}:")
        console.print(show(text[part], trace["c"][part, 0, unit]))
    file.make_folder(given.out)
    trace.save(given.out / "trace.safetensors")
    openlstm.save(model.recurrent, given.out / "model.safetensors")


if __name__ == "__main__":
    main()
