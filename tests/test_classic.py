"""The classic problems of long memory are what their papers say, and the benchmark runs from end to end."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def classic():
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks import classic
    finally:
        sys.path.remove(str(ROOT))
    return classic


@pytest.fixture
def random():
    return np.random.default_rng(0)


def classes(x: torch.Tensor) -> np.ndarray:
    """What vectors with a single 1 stand for."""
    assert ((x == 0) | (x == 1)).all() and (x.sum(-1) == 1).all()
    return x.argmax(-1).numpy()


def test_adding_marks_a_number_in_each_half(classic, random):
    batch = classic.adding(random, 300)
    numbers, marks = batch.x.numpy().transpose(2, 0, 1)
    assert numbers.shape == (400, 300) and batch.target.shape == (300, 1) and batch.lengths is None
    assert (numbers >= 0).all() and (numbers < 1).all() and np.isin(marks, (0, 1)).all()
    assert (marks[:200].sum(0) == 1).all() and (marks[200:].sum(0) == 1).all()
    np.testing.assert_allclose(batch.target[:, 0], (numbers * marks).sum(0), rtol=1e-6)
    places = marks.argmax(0)
    assert places.min() < 10 and places.max() > 190


def test_copy_asks_for_the_symbols_in_their_order(classic, random):
    batch = classic.copy(random, 300)
    seen, wanted = classes(batch.x), batch.target.numpy()
    assert batch.x.shape == (220, 300, 10) and wanted.shape == (220, 300)
    np.testing.assert_array_equal(wanted[-10:], seen[:10])
    assert set(seen[:10].ravel()) == set(range(8))
    assert (seen[209] == 9).all() and (np.delete(seen[10:], 199, 0) == 8).all()
    assert (wanted[:210] == 8).all()


def test_order_is_that_of_the_two_that_count(classic, random):
    batch = classic.order(random, 2000)
    assert batch.x.shape == (110, 2000, 8)
    lengths, found = batch.lengths.numpy(), classes(batch.x)
    assert set(lengths) == set(range(100, 111)) and set(batch.target.tolist()) == {0, 1, 2, 3}
    places = []
    for symbols, length, target in zip(found.T, lengths, batch.target.tolist(), strict=True):
        first, second = np.flatnonzero(symbols[:length] < 2)
        assert target == ["XX", "XY", "YX", "YY"].index("XY"[symbols[first]] + "XY"[symbols[second]])
        assert symbols[0] == 6 and symbols[length - 1] == 7
        assert np.isin(np.delete(symbols[1 : length - 1], (first - 1, second - 1)), (2, 3, 4, 5)).all()
        places.append((first, second))
    assert set(np.array(places)[:, 0]) == set(range(10, 21)) and set(np.array(places)[:, 1]) == set(range(50, 61))


def test_errors_count_what_is_asked(classic):
    """Of copy's 220 answers the blanks are given away, and only the last ten count."""
    target = torch.full((220, 2), 8)
    target[-10:] = 3
    output = torch.nn.functional.one_hot(target, 9).float()
    output[:50] = 0
    assert classic.wrong(output, target) == 0
    output[-1, 0] = 0
    assert classic.wrong(output, target).item() == pytest.approx(1 / 20)
    assert classic.wrong(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.25


def job(classic, name: str, cell: str, **options):
    config = classic.Config(**classic.SETTINGS | {"epochs": 1} | options, **classic.CELLS[cell][2])
    return classic.ClassicJob(classic.PROBLEMS[name], config)


def test_batches_follow_from_the_seed_and_none_comes_twice(classic):
    batches = job(classic, "copy", "rnn").batches
    walk = [batch.x for (batch, _), _ in zip(batches.walk(1), range(4), strict=False)]
    assert torch.equal(next(batches.walk(1, begin=3))[0].x, walk[3])
    others = [next(batches.walk(0))[0].x, next(job(classic, "copy", "rnn", seed=1).batches.walk(1))[0].x]
    different = {tuple(classes(x[:10]).ravel()) for x in (*walk, *others)}
    assert len(different) == 6


@pytest.mark.parametrize("cell", ["gru", "lstm", "peephole"])
def test_units_begin_with_memories_of_all_lengths_up_to_ten_times_the_sequence(classic, cell):
    """Where nothing comes in and h is small, a unit forgets the share 1 / n of its memory at a step."""
    network = job(classic, "order", cell).model
    layer = network.recurrent
    biases = dict(zip(layer.spec.gates, layer.bias_ih_l0.detach().chunk(len(layer.spec.gates)), strict=True))
    keep = biases.get("f", biases.get("u")).sigmoid()
    memory = 1 / (1 - keep)
    assert memory.min() >= 2 and memory.min() < 100 and 1000 < memory.max() <= 1101
    if "i" in biases:
        torch.testing.assert_close(biases["i"].sigmoid(), 1 - keep)
    for recurrent in layer.weight_hh_l0.detach().chunk(len(layer.spec.gates)):
        torch.testing.assert_close(recurrent @ recurrent.T, torch.eye(len(recurrent)), atol=1e-5, rtol=0)


def test_the_command_trains_and_writes_what_it_found(tmp_path):
    """Fifty steps of training are too few: it says so, and fails."""
    command = [sys.executable, "-m", "benchmarks.classic", "--problems", "order", "--cells", "rnn,lstm"]
    options = ["--epochs", "1", "--seed", "3", "--out", str(tmp_path)]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "temporal order, RNN: error 0." in done.stdout and "not solved" in done.stdout
    with (tmp_path / "classic.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["problem"], row["cell"], row["seed"], row["step"]) for row in rows] == [
        ("order", "rnn", "3", "50"),
        ("order", "lstm", "3", "50"),
    ]
    assert all(0 < float(row["error"]) <= 1 for row in rows)
    assert (tmp_path / "classic.svg").read_text().count("<svg") == 1
