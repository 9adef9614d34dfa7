"""What has a character model learned? Trains one on Python's own library and looks for units with a role.

    python examples/characters.py [--minutes 5] [--out characters]

The model reads a file that it has not seen. What a Python tokenizer says of each character (is it inside a string, a
comment, brackets; how deep is its line indented) is held against the memory of every unit, and the units that follow
best are named and shown. Into the folder `--out` go the layer (model.safetensors, which `openlstm explore` reads too),
and the explorer's page of the first 1500 characters.
"""

from __future__ import annotations

import argparse
import io
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
from openlstm.example import ALPHABET, encode, one_hot

HELD_OUT = "textwrap.py"  # the file that is read at the end, and never trained on
UNITS, STEPS, BATCH, RATE = 128, 100, 32, 3e-3
FSTRING = tuple(getattr(tokenize, f"FSTRING_{name}", -1) for name in ("START", "END"))  # from Python 3.12 on


def read(path: Path) -> str:
    """The text of a source."""
    return path.read_text(encoding="utf-8", errors="replace").expandtabs(4)


class Characters(nn.Module):
    """Reads characters (T, B, alphabet), and for each gives the odds of the next one, of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = openlstm.LSTM(len(ALPHABET), UNITS, forget_bias=1.0)
        self.output = nn.Linear(UNITS, len(ALPHABET))

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:
        """The odds, and the state after the last character, from one_hot characters."""
        y, state = self.recurrent(x, state)
        return self.output(y), state


def train(model: Characters, text: str, minutes: float, console: Console) -> None:
    """Reads the text in order, BATCH places at once, each with the state from where it stopped."""
    stream = torch.from_numpy(encode(text))
    lanes = stream[: len(stream) // BATCH * BATCH].view(BATCH, -1).t()  # (T, B)
    eye = torch.eye(len(ALPHABET))
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    until, step, state, recent = time.monotonic() + 60 * minutes, 0, None, []
    while (left := (until - time.monotonic()) / (60 * minutes)) > 0:
        optimizer.param_groups[0]["lr"] = RATE * (0.03 + 0.97 * left)
        at = step * STEPS % (len(lanes) - STEPS - 1)
        if at < STEPS:
            state = None  # the text begins again
        elif state is not None:
            state = tuple(part.detach() for part in state)  # type: ignore[attr-defined]
        odds, state = model(eye[lanes[at : at + STEPS]], state)
        loss = nn.functional.cross_entropy(odds.flatten(0, 1), lanes[at + 1 : at + STEPS + 1].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = [*recent[-499:], loss.item()]
        step += 1
        if step % 1000 == 0:
            console.print(f"step {step}: {np.mean(recent) / np.log(2):.2f} bits a character")


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
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to train (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("characters"), help="where results go (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights (%(default)s)")
    given = parser.parse_args()
    if not given.minutes > 0:
        parser.error(f"minutes is {given.minutes:g}: expected a number above 0")
    console = Console(highlight=False)
    torch.manual_seed(given.seed)
    library = Path(sysconfig.get_path("stdlib"))
    sources = sorted(path for path in library.glob("*.py") if path.name != HELD_OUT)
    model = Characters()
    console.print(f"Training for {given.minutes:g} minutes on {len(sources)} files of {library}", soft_wrap=True)
    train(model, "".join(map(read, sources)), given.minutes, console)

    text = read(library / HELD_OUT)
    with torch.no_grad(), openlstm.trace(model, names=["i", "f", "o", "c", "h"]) as run:
        x = torch.from_numpy(one_hot(text))
        odds, _ = model(x[:, None])
    loss = nn.functional.cross_entropy(odds[:-1, 0], torch.from_numpy(encode(text))[1:]).item() / np.log(2)
    trace = run["recurrent"]
    console.print(f"\n{HELD_OUT}, never seen: {loss:.2f} bits a character\n\n{trace.summary()}\n")
    table = Table("role", "unit", "match", "second", title="Units whose memory follows a role best")
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
    openlstm.save(model.recurrent, given.out / "model.safetensors")
    page = trace.select(steps=slice(1500)).explore(text[:1500], title=f"A character model reads {HELD_OUT}")
    page.save(given.out / "explorer.html")
    console.print(f"\nWrote model.safetensors and explorer.html to {given.out}/", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
