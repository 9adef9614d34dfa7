"""Labels for frames: what files may hold, what training may know, and that pieces, processes and kills do not show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from openlstm import file
from openlstm.train import frames, frames_files, load, loop
from openlstm.train.config import FramesConfig
from openlstm.train.frames import TASK, FrameClassifier, Frames, FramesJob, read
from openlstm.train.task import Picture, Share, Table

SMALL = {"hidden": 6, "epochs": 2, "batch": 4, "threads": 1}


def sequences(count: int = 20, features: int = 3, each: str = "frame", seed: int = 0, longest: int = 14):
    """Frames (n, D) and labels of each sequence: the sign of a feature, or of its sum."""
    random = np.random.default_rng(seed)
    x = [random.normal(size=(n, features)).astype(np.float32) for n in random.integers(1, longest + 1, count)]
    if each == "frame":
        return x, [np.where(one[:, 0] > 0, "up", "down") for one in x]
    return x, ["up" if one[:, 0].sum() > 0 else "down" for one in x]


def save(path: Path, x, y=None) -> Path:
    """Sequences as an .npz file."""
    arrays = {"x": np.concatenate(x), "lengths": [len(one) for one in x]}
    if y is not None:
        arrays["y"] = np.concatenate(y) if isinstance(y[0], np.ndarray) else np.array(y)
    np.savez(path, **arrays)
    return path


def save_lines(path: Path, x, y=None, names=None) -> Path:
    """Sequences as a .jsonl file with its arrays beside it."""
    lines = []
    for k, one in enumerate(x):
        np.save(path.parent / f"{k}.npy", one)
        line = {"features": f"{k}.npy"}
        if y is not None:
            line |= {"labels": y[k].tolist()} if isinstance(y[k], np.ndarray) else {"label": y[k]}
        lines.append(json.dumps(line | ({} if names is None else {"id": names[k]})))
    path.write_text("\n".join(lines) + "\n\n")
    return path


def save_rows(path: Path, x, y=None, names=None, **options) -> Path:
    """Sequences as a .parquet file."""
    table = {"x": [one.tolist() for one in x]}
    if y is not None:
        table["y"] = [one.tolist() if isinstance(one, np.ndarray) else one for one in y]
    pd.DataFrame(table | ({} if names is None else {"id": names})).to_parquet(path, **options)
    return path


def job_of(data: Frames, share: Share | None = None, **options) -> FramesJob:
    return TASK.job(data, FramesConfig(**(SMALL | options)), share or Share())


def model_of(path: Path, each: str = "frame", **options) -> FrameClassifier:
    """A model that has trained for a moment."""
    job = job_of(read([save(path / "train.npz", *sequences(each=each))]), **options)
    loop.train(job)
    return job.model


def told(model: FrameClassifier, *files: Path) -> pd.DataFrame:
    return pd.concat(list(model.predict(files)), ignore_index=True)


# Files


@pytest.mark.parametrize("each", ["frame", "sequence"])
def test_the_same_sequences_from_every_kind_of_file(tmp_path, each):
    x, y = sequences(each=each)
    padded = np.full((len(x), 14, 3), np.nan)  # what is past an end is never read
    for k, one in enumerate(x):
        padded[k, : len(one)] = one
    wide = np.array([np.pad(one, (0, 14 - len(one))) for one in y]) if each == "frame" else np.array(y)
    np.savez_compressed(tmp_path / "padded.npz", x=padded, lengths=[len(one) for one in x], y=wide)
    first = read([save(tmp_path / "a.npz", x, y)])
    assert torch.equal(first.x, torch.from_numpy(np.concatenate(x))) and first.classes == ("down", "up")
    assert first.lengths.tolist() == [len(one) for one in x] and first.each == each
    assert [first.classes[k] for k in first.codes] == list(np.concatenate(y) if each == "frame" else y)
    files = [tmp_path / "padded.npz", save_lines(tmp_path / "a.jsonl", x, y), save_rows(tmp_path / "a.parquet", x, y)]
    for path in files:
        data = read([path])
        for name in ("x", "lengths", "codes"):
            assert torch.equal(getattr(data, name), getattr(first, name)), (path, name)
        assert (data.classes, data.each, data.names) == (first.classes, each, list(range(20)))
    together = read([tmp_path / "a.npz", *files])
    assert len(together.x) == 4 * len(first.x) and together.names == list(range(80))


def test_numbers_are_labels_too_and_are_sorted_as_numbers(tmp_path):
    x = [np.zeros((3, 2)), np.ones((2, 2), np.int16)]
    for path in (
        save(tmp_path / "a.npz", x, [np.array([10, 9, 2], np.uint8), np.array([2, 10], np.uint8)]),
        save_rows(tmp_path / "a.parquet", x, [np.array([10, 9, 2]), np.array([2, 10])], ["one", "two"]),
    ):
        data = read([path])
        assert data.classes == (2, 9, 10) and data.codes.tolist() == [2, 1, 0, 0, 2]
        assert data.x.dtype == torch.float32 and data.x.tolist() == [[0, 0]] * 3 + [[1, 1]] * 2
    assert data.names == ["one", "two"]


def test_one_sequence_needs_no_lengths(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((5, 2)), y=np.arange(5))
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 4, 2)), y=np.arange(2))
    data = read([tmp_path / "a.npz"])
    assert data.lengths.tolist() == [5] and data.each == "frame"
    data = read([tmp_path / "b.npz"])
    assert data.lengths.tolist() == [4, 4] and data.each == "sequence"


def test_long_sequences_are_read_in_parts(tmp_path, monkeypatch):
    x, y = sequences()
    whole = read([save(tmp_path / "a.npz", x, y)])
    for module in (frames, frames_files):
        monkeypatch.setattr(module, "PIECE", 5)
    assert max(len(part.x) for part in frames.parts([tmp_path / "a.npz"], True)) == 5
    for path in (tmp_path / "a.npz", save_lines(tmp_path / "a.jsonl", x, y), save_rows(tmp_path / "a.parquet", x, y)):
        data = read([path])
        assert torch.equal(data.x, whole.x) and torch.equal(data.codes, whole.codes)
        assert torch.equal(data.lengths, whole.lengths)


ONE = np.zeros((4, 2))


def arrays(**given):
    return lambda path: np.savez(path / "f.npz", **given)


def lines(*given: object):
    def write(path: Path) -> None:
        np.save(path / "a.npy", ONE)
        np.save(path / "flat.npy", ONE[0])
        np.save(path / "text.npy", np.array([["a"]]))
        np.save(path / "objects.npy", np.array([[{}]]), allow_pickle=True)
        (path / "none.npy").write_bytes(b"")
        (path / "f.jsonl").write_text("".join(f"{g if isinstance(g, str) else json.dumps(g)}\n" for g in given))

    return write


def rows(**given):
    return lambda path: pd.DataFrame(given).to_parquet(path / "f.parquet")


def raw(name: str, data: bytes):
    return lambda path: (path / name).write_bytes(data)


def cut(path: Path) -> None:
    """An archive whose array ends too early."""
    import zipfile

    np.savez(path / "g.npz", x=np.zeros((4, 2)), y=np.zeros(4, int))
    with zipfile.ZipFile(path / "g.npz") as old, zipfile.ZipFile(path / "f.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:-8] if name == "x.npy" else old.read(name))


A = {"features": "a.npy"}
NAN = np.array([[0.0, 1], [2, np.nan]])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "There is no file 'f.npz': give an .npz, .jsonl or .parquet file of sequences"),
        (raw("f.csv", b"a"), "'f.csv' ends with '.csv': expected an .npz, .jsonl or .parquet file"),
        (raw("f.npz", b""), "'f.npz' cannot be read (No data left in file): expected an .npz file with the arrays"),
        (
            raw("f.npz", b"x" * 99),
            "'f.npz' cannot be read (no array, or one of Python objects): expected an .npz file with the arrays x, y",
        ),
        (raw("f.npz", b"PK\3\4" + b"x" * 99), "'f.npz' cannot be read (File is not a zip file): expected an .npz file"),
        (arrays(z=ONE), "'f.npz' cannot be read (\"There is no item named 'x.npy' in the archive\"): expected an"),
        (
            arrays(x=np.array([["a"]])),
            "x of 'f.npz' is <U1 of shape (1, 1): expected numbers, (frames, D) or (N, T, D)",
        ),
        (arrays(x=np.array([{}])), "x of 'f.npz' is object of shape (1,): expected numbers, (frames, D) or (N, T, D)"),
        (arrays(x=ONE[0]), "x of 'f.npz' is float64 of shape (2,): expected numbers, (frames, D) or (N, T, D)"),
        (arrays(x=ONE[:0], y=[]), "Sequence 0 of 'f.npz' has 0 frames of 2 features: expected at least one of each"),
        (arrays(x=ONE[:0], y=[], lengths=np.array([], int)), "'f.npz' holds no sequences: expected at least one"),
        (arrays(x=ONE[:, :0], y=[1] * 4), "Sequence 0 of 'f.npz' has 4 frames of 0 features: expected at least one"),
        (arrays(x=np.zeros((2, 3)).T), "x of 'f.npz' is stored column by column: save numpy.ascontiguousarray(x)"),
        (cut, "'f.npz' cannot be read (x ends too early): expected an .npz file with the arrays x, y and lengths"),
        (arrays(x=ONE, y=[1] * 4, lengths=[2.0, 2]), "lengths of 'f.npz' is not a whole number of at least 1 for each"),
        (arrays(x=ONE, y=[1] * 4, lengths=[4, 0]), "lengths of 'f.npz' is not a whole number of at least 1 for each"),
        (arrays(x=ONE, y=[1] * 4, lengths=[2, 1]), "lengths of 'f.npz' add up to 3, but x has 4 frames: expected the"),
        (
            arrays(x=np.zeros((2, 3, 1)), y=[1, 2], lengths=[2, 4]),
            "lengths of 'f.npz' has 2 numbers up to 4, but x is of shape (2, 3, 1): expected 2 of at most 3",
        ),
        (
            arrays(x=ONE, y=[1] * 3, lengths=[2, 2]),
            "y of 'f.npz' is of shape (3,): expected (4,), a label for each frame, or (2,), one for each sequence",
        ),
        (arrays(x=ONE), "Sequence 0 of 'f.npz' has no labels: expected one for each frame, or one for the sequence"),
        (arrays(x=ONE, y=[0.5] * 4), "Sequence 0 of 'f.npz' has labels such as [0.5, 0.5, 0.5, 0.5]: expected whole"),
        (
            arrays(x=ONE, y=np.array([{}] * 4)),
            "'f.npz' cannot be read (no array, or one of Python objects): expected an .npz file",
        ),
        (
            arrays(x=ONE, y=np.array([2**63] * 4, np.uint64)),
            "Sequence 0 of 'f.npz' has labels such as [9223372036854775808",
        ),
        (
            arrays(x=NAN, y=[1, 2]),
            "Sequence 0 of 'f.npz' has nan as feature 1 of frame 1: expected a number that float32 can hold; correct "
            "it, or leave that sequence out",
        ),
        (arrays(x=ONE + 1e39, y=[1] * 4), "Sequence 0 of 'f.npz' has inf as feature 0 of frame 0: expected a number"),
        (raw("f.jsonl", b""), "'f.jsonl' holds no sequences: expected at least one"),
        (raw("f.jsonl", b"\xff\xfe"), "'f.jsonl' cannot be read ('utf-8' codec can't decode byte 0xff in position 0: "),
        (
            lines("{"),
            "Line 1 of 'f.jsonl' is not JSON (Expecting property name enclosed in double quotes: line 2 column",
        ),
        (
            lines("[]"),
            'Line 1 of \'f.jsonl\' names no file of features: expected a line such as {"features": "a.npy", ',
        ),
        (
            lines(A | {"labels": 1}),
            "Line 1 of 'f.jsonl' has labels that are no list, or label too: expected a line such",
        ),
        (lines(A | {"labels": [1] * 4, "label": 1}), "Line 1 of 'f.jsonl' has labels that are no list, or label too: "),
        (
            lines({"features": "b.npy"}),
            "Line 1 of 'f.jsonl' names the file 'b.npy', which is not there: expected an .npy",
        ),
        (lines({"features": "flat.npy"}), "'flat.npy' cannot be read (float64 of shape (2,), not numbers of shape"),
        (lines({"features": "text.npy"}), "'text.npy' cannot be read (<U1 of shape (1, 1), not numbers of shape"),
        (
            lines({"features": "objects.npy"}),
            "'objects.npy' cannot be read (Array can't be memory-mapped: Python objects",
        ),
        (lines({"features": "none.npy"}), "'none.npy' cannot be read (No data left in file): expected an .npy file"),
        (lines(A), "Line 1 of 'f.jsonl' has no labels: expected one for each frame, or one for the sequence"),
        (
            lines(A | {"labels": [1, 2]}),
            "Line 1 of 'f.jsonl' has 2 labels and 4 frames: expected a label for each frame",
        ),
        (
            lines(A | {"labels": [1, "a", 2, 3]}),
            "Line 1 of 'f.jsonl' has labels such as [1, 'a', 2, 3]: expected whole",
        ),
        (lines(A | {"labels": [[1]] * 4}), "Line 1 of 'f.jsonl' has labels such as [[1], [1], [1], [1]]: expected"),
        (lines(A | {"label": True}), "Line 1 of 'f.jsonl' has labels such as [True]: expected whole numbers of 64"),
        (lines(A | {"label": 2**64}), "Line 1 of 'f.jsonl' has labels such as [18446744073709551616]: expected"),
        (lines(A | {"label": 1, "id": [1]}), "Line 1 of 'f.jsonl' has the id [1]: expected a text or a whole number"),
        (
            lines(A | {"label": 1}, A | {"labels": [1, 2, 3, 4]}),
            "Line 2 of 'f.jsonl' has numbers as labels, for each frame, but those before are numbers for each "
            "sequence: expected the same everywhere",
        ),
        (
            lines(A | {"label": 1}, A | {"label": "1"}),
            "Line 2 of 'f.jsonl' has texts as labels, for each sequence, but",
        ),
        (
            raw("f.parquet", b"PAR1"),
            "'f.parquet' cannot be read (Parquet file size is 4 bytes, smaller than the minimum",
        ),
        (rows(a=[1]), "'f.parquet' has the columns 'a': expected x and y"),
        (
            rows(x=[[1.0]], y=[1]),
            "x of 'f.parquet' holds list<element: double>: expected lists of lists of numbers, one",
        ),
        (rows(x=[[["1"]]], y=[1]), "x of 'f.parquet' holds list<element: list<element: string>>: expected lists of"),
        (rows(x=[[[1.0], [None]]], y=[1]), "Row 0 of 'f.parquet' has gaps in x: expected a number in every place"),
        (rows(x=[[[1.0]], [[1.0], None]], y=[1, 2]), "Row 1 of 'f.parquet' has gaps in x: expected a number in every"),
        (rows(x=[[[1.0]], None], y=[1, 2]), "Row 1 of 'f.parquet' has gaps in x: expected a number in every place"),
        (rows(x=[[[1.0], [1.0, 2]]], y=[1]), "Row 0 of 'f.parquet' has frames of 1 to 2 features: expected the same"),
        (
            rows(x=[[[1.0]], [[1.0, 2]]], y=[1, 2]),
            "Row 1 of 'f.parquet' has 2 features in a frame, those before have 1",
        ),
        (rows(x=[[[1.0]], []], y=[1, 2]), "Row 1 of 'f.parquet' has 0 frames of 1 feature: expected at least one of"),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path, monkeypatch, write, message):
    monkeypatch.chdir(tmp_path)
    write(Path())
    path = next(iter(sorted(Path().glob("f.*"))), Path("f.npz"))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read([path])
    assert str(error.value).startswith(message) and "\n" not in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("count", "each", "options", "message"),
    [
        (
            2,
            "frame",
            {},
            "The data has 2 sequences, which leaves 0 to train on after 1 for validation and 1 for the test: ",
        ),
        (9, "frame", {"test": 9}, "The data has 9 sequences, which leaves 0 to train on after 1 for validation and 9"),
        (9, "frame", {"test": 2.5}, "test is 2.5: expected a share such as 0.2, or a number of sequences such as 60"),
        (
            20,
            "sequence",
            {"delay": 2},
            "delay is 2, but Sequence 0 of 'a.npz' has one label for the whole sequence, which is said at its end: "
            "leave delay out",
        ),
        (20, "sequence", {"truncate": 2}, "truncate is 2, but Sequence 0 of 'a.npz' has one label for the whole"),
        (
            3,
            "one",
            {},
            "The training part has 1 different label: expected 2 to 100,000; give sequences that have so many",
        ),
    ],
)
def test_what_cannot_be_trained_on(tmp_path, monkeypatch, count, each, options, message):
    monkeypatch.chdir(tmp_path)
    x, y = sequences(count, each=each)
    data = read([save(Path("a.npz"), x, y if each != "one" else [np.zeros(len(one), int) for one in x])])
    with pytest.raises(ValueError) as error:
        job_of(data, **options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stack": 0}, "stack is 0: expected at least 1 and below 1001"),
        ({"delay": -1}, "delay is -1: expected at least 0 and below 1001"),
        ({"truncate": 0}, "truncate is 0: expected at least 1, or nothing: the whole sequence"),
        ({"class_weights": "all"}, "class_weights is 'all': expected one of none, balanced"),
        (
            {"recurrent": {"bidirectional": True}, "delay": 5},
            "delay is 5, but bidirectional layers have read what comes later: leave one out",
        ),
        (
            {"recurrent": {"bidirectional": True}, "truncate": 20},
            "truncate is 20, but bidirectional layers need a whole sequence: leave one out",
        ),
    ],
)
def test_a_bad_option_gets_one_sentence(options, message):
    with pytest.raises(ValueError) as error:
        FramesConfig(**options)
    assert str(error.value) == message


# What the model reads and is asked


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize("skip", [1, 2, 4])
@pytest.mark.parametrize("delay", [0, 2])
def test_frames_become_steps(stack, skip, delay):
    """Against loops over frames."""
    about = frames.Answers(("a", "b"), (1, 1), "frame", 1, stack, skip, delay)
    lengths = torch.tensor([5, 1, 8])
    x = torch.arange(14.0)[:, None]  # each frame is its own number
    starts = lengths.cumsum(0) - lengths
    steps = about.steps(lengths)
    most = int(steps.max())
    given = about.inputs(x, starts, lengths, 0, most)
    where, items = about.asked(torch.arange(3), starts, lengths, 0, most)
    answered = dict(zip(where.tolist(), items.tolist(), strict=True))
    for b, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        assert steps[b] == -(-length // skip) + delay
        for s in range(most):
            assert given[s, b].tolist() == [start + min(s * skip + k, length - 1) for k in range(stack)]
            first = (s - delay) * skip
            expected = [start + f if f < length else -1 for f in range(first, first + skip)]
            assert answered.get(3 * s + b) == (expected if 0 <= first < length else None)


def test_chunks_are_the_whole_in_pieces(tmp_path):
    """Batches of chunks hold what a batch of whole sequences holds, in order, with the first ones marked."""
    data = read([save(tmp_path / "a.npz", *sequences())])
    options = {"stack": 2, "skip": 2, "delay": 1}
    whole, cut = job_of(data, **options), job_of(data, truncate=3, **options)
    for number in range(5):
        batches = [batch for batch, _ in cut.batches.walk(number)]
        assert len(batches) == len(cut.batches)  # it is the same for every pass
        assert sum(batch.first for batch in batches) == len(whole.batches) == 4
        assert sum(len(batch.where) for batch in batches) == -(-data.lengths[cut.train] // 2).sum()
        rest = [batch for batch, _ in cut.batches.walk(number, 3)]
        assert all(torch.equal(a.x, b.x) for a, b in zip(rest, batches[3:], strict=True))
    chosen = torch.tensor([0, 1, 2, 3])
    full = whole._batch(chosen)
    pieces = [cut._batch(chosen, k) for k in range(-(-len(full.x) // 3))]
    assert torch.equal(torch.cat([piece.x for piece in pieces]), full.x)
    assert torch.equal(sum(piece.lengths for piece in pieces), full.lengths)
    assert torch.equal(torch.cat([piece.truth for piece in pieces]), full.truth)
    assert torch.equal(torch.cat([piece.where + 12 * k for k, piece in enumerate(pieces)]), full.where)
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)


def test_truncation_carries_states_and_not_gradients(tmp_path):
    """Chunk by chunk the losses add up to that of whole sequences, and gradients do where no state is carried."""
    data = read([save(tmp_path / "a.npz", *sequences())])
    whole, cut = job_of(data, delay=2), job_of(data, delay=2, truncate=3)
    chosen = torch.arange(4)
    full, count = whole.loss(whole._batch(chosen))
    parts = [cut.loss(cut._batch(chosen, k)) for k in range(-(-len(whole._batch(chosen).x) // 3))]
    assert sum(count for _, count in parts) == count == float(data.lengths[whole.train[chosen]].sum())
    assert float(sum(total for total, _ in parts).detach()) == pytest.approx(float(full.detach()), rel=1e-5)
    full.backward()
    sum(total for total, _ in parts).backward()
    gradients = [job.model.recurrent.weight_hh_l0.grad for job in (whole, cut)]
    assert not torch.allclose(*gradients, rtol=1e-3)
    one = cut._batch(chosen, 1)._replace(first=True)
    before = cut.loss(one)[0]
    assert not torch.isclose(before, parts[1][0], rtol=1e-4)  # from initial states it is another


def test_padding_counts_nowhere(tmp_path):
    """A batch's loss and gradients are the sums of those of its sequences alone, also backwards."""
    data = read([save(tmp_path / "a.npz", *sequences())])
    for options in ({"recurrent": {"bidirectional": True}}, {"skip": 3, "stack": 2, "delay": 1, "layers": 2}):
        job = job_of(data, **options)
        together, count = job.loss(job._batch(torch.arange(6)))
        together.backward()
        gradients = [parameter.grad.clone() for parameter in job.model.parameters()]
        job.model.zero_grad()
        alone = [job.loss(job._batch(torch.tensor([k]))) for k in range(6)]
        sum(total for total, _ in alone).backward()
        assert sum(own for _, own in alone) == count
        for gradient, parameter in zip(gradients, job.model.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


def test_a_sequence_is_judged_by_its_last_step_and_backwards_by_its_first(tmp_path):
    data = read([save(tmp_path / "a.npz", *sequences(each="sequence"))])
    for recurrent in ({}, {"bidirectional": True}, {"bidirectional": True, "proj_size": 2}):
        job = job_of(data, recurrent=recurrent)
        batch = job._batch(torch.arange(5))
        y, state = job.model(batch.x, batch.lengths)
        h = torch.cat(list(state[0]), -1)  # of both directions
        expected = job.model.head(h).log_softmax(-1)
        torch.testing.assert_close(job.model.answer(y, batch.where), expected)


# Training


def test_only_the_training_part_is_known(tmp_path):
    """Other frames and labels in the other parts change no weight, no mean, no class and no loss."""
    x, y = sequences(40)
    data = read([save(tmp_path / "a.npz", x, y)])
    job = job_of(data, class_weights="balanced")
    for part in (job.test, job.validation):
        for k in part.tolist():
            x[k] = 100 + 50 * x[k]
            y[k] = np.full(len(y[k]), "up")
    other = job_of(read([save(tmp_path / "b.npz", x, y)]), class_weights="balanced")
    assert other.model.about == job.model.about
    losses = [[row["training loss"] for row in loop.train(each).curve] for each in (job, other)]
    assert losses[0] == losses[1]
    scores = [each.score() for each in (job, other)]
    assert scores[0] != scores[1]
    known = torch.cat([data.x[data.starts[k] :][: data.lengths[k]] for k in job.train.tolist()]).double()
    torch.testing.assert_close(job.model.mean.double(), known.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(1 / job.model.scale.double(), known.std(0, correction=0), rtol=1e-5, atol=1e-6)
    numbers = torch.cat([job.train, job.validation, job.test])
    assert sorted(numbers.tolist()) == list(range(40)) and len(job.test) == 8 and len(job.validation) == 6


def test_one_seed_one_model_and_the_callers_numbers_are_undisturbed(tmp_path):
    data = read([save(tmp_path / "a.npz", *sequences())])
    state = torch.random.get_rng_state()
    jobs = [job_of(data, seed=seed, dropout=0.2) for seed in (1, 1, 2)]
    curves = [loop.train(job).curve for job in jobs]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert curves[0] == curves[1] != curves[2]


def test_features_that_stand_still_are_not_scaled_up(tmp_path):
    x, y = sequences()
    x = [np.concatenate([one, np.full((len(one), 1), 0.1, np.float32)], 1) for one in x]
    data = read([save(tmp_path / "a.npz", x, y)])
    assert job_of(data).model.scale[-1] == 1
    job = job_of(data, normalise=False)
    assert job.model.mean.tolist() == [0] * 4 and job.model.scale.tolist() == [1] * 4


def test_class_weights_make_every_class_count_the_same(tmp_path):
    x, _ = sequences(40)
    y = [np.where(np.arange(len(one)) % 7 == 3, "rare", "often") for one in x]
    job = job_of(read([save(tmp_path / "a.npz", x, y)]), class_weights="balanced", batch=100)
    batch, counts = job._batch(torch.arange(len(job.train))), torch.tensor(job.model.about.counts)
    total, count = job.loss(batch)
    assert count == pytest.approx(float(counts.sum()), rel=1e-5)
    torch.testing.assert_close(job.weights[:-1] * counts, torch.full((2,), float(counts.sum()) / 2))
    log = job.model.answer(job.model(batch.x, batch.lengths)[0], batch.where)
    expected = torch.nn.functional.nll_loss(log, batch.truth[:, 0], job.weights[:-1], reduction="sum")
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("each", ["frame", "sequence"])
@pytest.mark.parametrize("options", [{}, {"truncate": 3, "delay": 1}, {"class_weights": "balanced", "skip": 2}])
def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path, each, options):
    if each == "sequence" and "truncate" in options:
        options = {"recurrent": {"bidirectional": True, "learned_state": True}}
    data = read([save(tmp_path / "a.npz", *sequences(21, each=each))])
    one = job_of(data, batch=8, **options)
    two = [job_of(data, Share(rank, 2), **options) for rank in (0, 1)]
    assert [len(job.batches) for job in two] == [len(one.batches)] * 2
    walks = [job.batches.walk(3) for job in (one, *two)]
    for (whole, counts), *shares in zip(*walks, strict=True):
        assert counts
        total, count = one.loss(whole)
        parts = [job.loss(batch) for job, (batch, _) in zip(two, shares, strict=True)]
        weights = [float(own) for _, own in shares]
        assert sum(w * own for w, (_, own) in zip(weights, parts, strict=True)) == pytest.approx(count, rel=1e-5)
        for job, loss in ((one, total), *((j, w * t) for j, w, (t, _) in zip(two, weights, parts, strict=True))):
            job.model.zero_grad()
            loss.backward()
        for parameters in zip(*(job.model.parameters() for job in (one, *two)), strict=True):
            a, b, c = (parameter.grad for parameter in parameters)
            torch.testing.assert_close(a, b + c, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        scores = [job.score() for job in (one, *two)]
    for name, (total, count) in scores[0].items():
        assert sum(score[name][1] for score in scores[1:]) == pytest.approx(count)
        assert sum(score[name][0] for score in scores[1:]) == pytest.approx(total, rel=1e-5)


def test_every_loss_reaches_every_parameter(tmp_path):
    """Several processes wait for all gradients, also in chunks without labels or without initial states."""
    data = read([save(tmp_path / "a.npz", *sequences())])
    job = job_of(data, truncate=2, delay=3, layers=2, recurrent={"learned_state": True, "peephole": "diagonal"})
    seen = set()
    for batch, _ in job.batches.walk(0):
        job.model.zero_grad()
        total, count = job.loss(batch)
        total.backward()
        seen.add((batch.first, count > 0))
        assert all(parameter.grad is not None for parameter in job.model.parameters())
        assert all(parameter.grad.isfinite().all() for parameter in job.model.parameters())
    assert {(True, False), (False, True)} <= seen


@pytest.mark.parametrize("options", [{"dropout": 0.2}, {"truncate": 3, "delay": 1}, {"cell": "gru", "truncate": 2}])
def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path, monkeypatch, options):
    """Epochs end in the middle of sequences that are cut into chunks."""
    monkeypatch.setattr(loop, "EVERY", 0.0)
    data = read([save(tmp_path / "a.npz", *sequences())])
    options = options | {"epochs": 6, "steps_per_epoch": 2, "patience": 100}
    whole = job_of(data, **options)
    curve = loop.train(whole).curve

    class Killed(Exception):
        pass

    class Dying(FramesJob):
        epochs = 0

        def score(self):
            self.epochs += 1
            if self.epochs == 4:
                raise Killed
            return super().score()

    (tmp_path / "run").mkdir()
    with pytest.raises(Killed):
        loop.train(Dying(data, FramesConfig(**(SMALL | options))), folder=tmp_path / "run")
    again = job_of(data, **options)
    outcome = loop.train(again, folder=tmp_path / "run", resume=True)
    assert outcome.resumed == 3 and outcome.curve == curve
    for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_job_learns(tmp_path):
    """Labels that follow two frames after what they depend on."""
    x, _ = sequences(150)
    y = [np.where(np.roll(one[:, 0], 2) > 0, "up", "down") for one in x]
    for one in y:
        one[:2] = "none"
    data = read([save(tmp_path / "a.npz", x, y)])
    job = job_of(data, hidden=16, epochs=25, learning_rate=0.02, batch=8, truncate=6)
    loop.train(job)
    metrics = job.results().metrics
    assert metrics["accuracy"] > 0.9 > metrics["baseline"]["accuracy"] + 0.3


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({}, "lstm(3, 6; forget_bias=1.0)"),
        ({"stack": 2, "layers": 2, "dropout": 0.5}, "lstm(6, 6, 6; dropout=0.5, forget_bias=1.0)"),
        (
            {"recurrent": {"proj_size": 2, "peephole": "diagonal", "zoneout_h": 0.1, "forget_bias": 3.0}},
            "lstm(3, 6; proj_size=2, zoneout_h=0.1, peephole=diagonal, forget_bias=3.0)",
        ),
        ({"cell": "gru", "recurrent": {"bidirectional": True}}, "gru(3, 6; bidirectional)"),
    ],
)
def test_options_reach_the_layers(tmp_path, options, spec):
    job = job_of(read([save(tmp_path / "a.npz", *sequences())]), **options)
    assert str(job.model.recurrent.spec) == spec
    assert job.model.dropout.p == options.get("dropout", 0)


# The trained model


@pytest.mark.parametrize(
    ("each", "options"),
    [
        ("frame", {}),
        ("frame", {"stack": 3, "skip": 2, "delay": 2, "layers": 2, "recurrent": {"proj_size": 3}}),
        ("frame", {"stack": 1, "skip": 3, "cell": "gru"}),
        ("frame", {"stack": 4, "delay": 20}),
        ("frame", {"recurrent": {"bidirectional": True}, "skip": 2}),
        ("sequence", {"skip": 2, "stack": 3}),
        ("sequence", {"recurrent": {"bidirectional": True}}),
    ],
)
def test_pieces_do_not_show_in_predictions(tmp_path, monkeypatch, each, options):
    """Wherever sequences are cut and however they are put together, the answers are the same, as those of `said`."""
    model = model_of(tmp_path, each, **options)
    x, y = sequences(8, each=each, seed=5, longest=30)
    path = save_lines(tmp_path / "new.jsonl", x, names=[f"s{k}" for k in range(8)])
    whole = told(model, path)
    data = read([save(tmp_path / "new.npz", x, y)])
    said, log = model.said(data, torch.arange(8))
    assert whole["label"].tolist() == [model.about.classes[k] for k in said]
    np.testing.assert_allclose(whole["probability"], log.exp(), rtol=1e-5)
    assert list(whole) == ["sequence", *(["frame"] if each == "frame" else []), "label", "probability"]
    if each == "frame":
        assert whole["sequence"].tolist() == [f"s{k}" for k, one in enumerate(x) for _ in one]
        assert whole["frame"].tolist() == [t for one in x for t in range(len(one))]
    for piece, numbers in ((1, 2**22), (7, 2**22), (16, 8)):
        for module in (frames, frames_files):
            monkeypatch.setattr(module, "PIECE", piece)
        for module in (frames, frames_files):
            monkeypatch.setattr(module, "NUMBERS", numbers)
        again = told(model, path)
        pd.testing.assert_frame_equal(again, whole, rtol=1e-5)
        assert torch.equal(model.said(data, torch.arange(8))[0], said)


def test_a_prediction_holds_pieces_only(tmp_path, monkeypatch):
    """A long sequence is told part by part, while its file is read."""
    model = model_of(tmp_path)
    np.savez(tmp_path / "long.npz", x=np.random.default_rng(0).normal(size=(1000, 3)))
    for module in (frames, frames_files):
        monkeypatch.setattr(module, "PIECE", 64)
    sizes = [len(piece) for piece in model.predict([tmp_path / "long.npz"])]
    assert sum(sizes) == 1000 and max(sizes) <= 64
    first = next(model.predict([tmp_path / "long.npz"]))
    assert first["frame"].tolist() == list(range(64)) and first["sequence"].tolist() == [0] * 64


def test_predictions_need_no_labels_and_number_sequences_over_files(tmp_path):
    model = model_of(tmp_path)
    x, _ = sequences(3)
    files = [save(tmp_path / "a.npz", x), save_lines(tmp_path / "a.jsonl", x), save_rows(tmp_path / "a.parquet", x)]
    found = told(model, *files)
    assert found["sequence"].unique().tolist() == list(range(9))
    for k in (3, 6):
        pd.testing.assert_series_equal(
            found[found["sequence"] == k]["probability"].reset_index(drop=True),
            found[found["sequence"] == 0]["probability"].reset_index(drop=True),
            rtol=1e-5,
        )


@pytest.mark.parametrize("each", ["frame", "sequence"])
def test_a_model_is_one_file(tmp_path, each):
    model = model_of(tmp_path, each, recurrent={"peephole": "diagonal"}, skip=2)
    model.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert isinstance(again, FrameClassifier) and again.about == model.about and again.spec == model.spec
    pd.testing.assert_frame_equal(told(again, tmp_path / "train.npz"), told(model, tmp_path / "train.npz"))
    scores = again.evaluate(again.read([tmp_path / "train.npz"])).metrics
    assert scores == model.evaluate(model.read([tmp_path / "train.npz"])).metrics


def test_a_file_that_is_no_model(tmp_path):
    model = model_of(tmp_path)
    path = tmp_path / "m.safetensors"
    model.save(path)
    tensors, metadata = file.read(path)
    about = json.loads(metadata["task"])

    def message(change: dict) -> str:
        file.write(path, tensors, metadata | {"task": json.dumps(about | change)})
        with pytest.raises(ValueError) as error:
            FrameClassifier.load(path)
        return str(error.value).replace(str(path), "m")

    for change, end in (
        ({"classes": 5}, "classes is no list"),
        ({"classes": ["a"]}, "it has 1 class and 2 counts: expected 2 to 100000"),
        ({"classes": ["a", 1]}, "classes are not all whole numbers or all texts, or one is there twice"),
        ({"classes": ["a", "a"]}, "classes are not all whole numbers or all texts, or one is there twice"),
        ({"classes": [["a"], ["b"]]}, "classes are not all whole numbers or all texts, or one is there twice"),
        ({"classes": [0, 2**63]}, "classes are whole numbers of more than 64 bits"),
        ({"counts": [1, -1]}, "counts are not whole numbers above 0"),
        ({"each": "word"}, "each is 'word' with a delay of 0"),
        ({"stack": 2}, "the layers have 3 inputs, expected 3 * 2"),
        ({"stack": 10**9}, "stack is 1000000000: expected a whole number from 1 to 1000"),
        ({"delay": True}, "delay is True: expected a whole number from 0 to 1000"),
        ({"skip": "2"}, "skip is '2': expected a whole number from 1 to 1000"),
    ):
        assert message(change) == f"'m' holds a task that this openlstm cannot use: {end}"
    assert message({"more": 1}).startswith("'m' holds a task that this openlstm cannot use: ")
    three = {"classes": ["a", "b", "c"], "counts": [1, 1, 1]}
    assert message(three).startswith("'m' does not fit its task: head.")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([np.zeros((2, 3)), np.zeros((2, 3))], [["up", "up"], ["up", "left"]], "Frame 1 of sequence 1 of 'n.npz' has"),
        ([np.zeros((2, 2))], [["up", "up"]], "Sequence 0 of 'n.npz' has 2 features in a frame, but the model was"),
        ([np.zeros((2, 3))] * 3, ["up", "up", "up"], "Sequence 0 of 'n.npz' has a label for each sequence, but the"),
    ],
)
def test_data_that_the_model_does_not_know(tmp_path, monkeypatch, x, y, message):
    model = model_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    save(Path("n.npz"), x, [np.array(one) if isinstance(one, list) else one for one in y])
    with pytest.raises(ValueError) as error:
        model.read([Path("n.npz")])
    assert str(error.value).startswith(message)
    if "features" in message:
        for ask in (lambda: told(model, Path("n.npz")), lambda: model.look(Path("n.npz"))):
            with pytest.raises(ValueError) as error:
                ask()
            assert str(error.value).startswith(message)


def test_a_label_outside_the_training_part_is_an_error_before_training(tmp_path):
    x, y = sequences()
    job = job_of(read([save(tmp_path / "a.npz", x, y)]))
    k = int(job.test[0])
    y[k] = np.array(["never", *y[k][1:]])
    with pytest.raises(ValueError, match=rf"^Frame 0 of sequence {k} of .* has the label 'never', which the training"):
        job_of(read([save(tmp_path / "a.npz", x, y)]))


@pytest.mark.parametrize("each", ["frame", "sequence"])
def test_results_are_right(tmp_path, each):
    """Against sums over the table of predictions."""
    job = job_of(read([save(tmp_path / "a.npz", *sequences(60, each=each))]), epochs=4)
    loop.train(job)
    results, metrics = job.results(), job.results().metrics
    x, y = sequences(60, each=each)
    chosen = job.test.tolist()
    save(tmp_path / "test.npz", [x[k] for k in chosen])
    found = told(job.model, tmp_path / "test.npz")
    truth = np.concatenate([y[k] for k in chosen]) if each == "frame" else np.array([y[k] for k in chosen])
    right = found["label"].to_numpy() == truth
    p = np.where(right, found["probability"], 1 - found["probability"])  # there are two classes
    recalls = {label: right[truth == label].mean() for label in ("down", "up")}
    assert metrics["accuracy"] == pytest.approx(right.mean())
    assert metrics["cross-entropy"] == pytest.approx(-np.log(p).mean(), rel=1e-5)
    assert metrics["balanced accuracy"] == pytest.approx(np.mean(list(recalls.values())))
    assert {label: row["accuracy"] for label, row in metrics["classes"].items()} == pytest.approx(recalls)
    counts = dict(zip(job.model.about.classes, job.model.about.counts, strict=True))
    frequent = max(counts, key=counts.get)
    assert metrics["baseline"]["accuracy"] == pytest.approx((truth == frequent).mean())
    tables = {part.title: part for part in results.parts if isinstance(part, Table)}
    rows = {row[0]: [int(n) for n in row[1:]] for row in tables["What was said for what"].rows}
    for label in ("down", "up"):
        told_of = found["label"].to_numpy()[truth == label]
        assert rows[label] == [(told_of == "down").sum(), (told_of == "up").sum()]
    assert results.parts[0].rows[0][:2] == ("LSTM", f"{right.mean():.2%}")
    assert len(tables["Worst sequences"].rows) == 12 == len(chosen)
    assert [type(part) for part in results.parts].count(Picture) == 2
    json.dumps(metrics, allow_nan=False)


def test_pictures_of_many_classes_and_of_odd_names(tmp_path):
    """Names come from data: none is mathematics, a line break, or wider than the picture."""
    random = np.random.default_rng(0)
    names = np.array(["$x$", "a\nb", "[red]", "<b>", "long " * 20, *(f"c{k}" for k in range(70))])
    x = [random.normal(size=(150, 2)) for _ in range(12)]
    y = [names[np.arange(150) % 75] for _ in x]
    job = job_of(read([save(tmp_path / "a.npz", x, y)]))
    results = job.results()
    for part in results.parts:
        if isinstance(part, Picture):
            part.figure.savefig(tmp_path / "p.png")
        else:
            assert all("\n" not in cell and len(cell) <= 24 for row in part.rows for cell in row)
    pictures = [part for part in results.parts if isinstance(part, Picture)]
    assert "The 60 most frequent of 75 classes." in pictures[0].note
    assert len(pictures[0].figure.axes[0].get_xticklabels()) == 60
    assert not any("for what" in part.title for part in results.parts if isinstance(part, Table))


def test_a_look_inside(tmp_path, monkeypatch):
    model = model_of(tmp_path, stack=2, skip=2)
    monkeypatch.setattr(frames, "LOOK", 5)
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.savez(tmp_path / "long.npz", x=x)
    trace, shown = model.look(tmp_path / "long.npz")
    assert shown is None and trace["c"].shape == (5, 1, 6)
    expected = np.stack([x[2 * s : 2 * s + 2] for s in range(5)])
    expected = (expected - model.mean.numpy()) * model.scale.numpy()
    np.testing.assert_allclose(trace.x[:, 0], expected.reshape(5, 6), rtol=1e-4, atol=1e-5)
