"""Training a character model: what it may know, what it says of files, and what it is held against."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from openlstm import file
from openlstm.plots import write
from openlstm.train import load, loop, text
from openlstm.train.config import TextConfig
from openlstm.train.ngram import ngram_bits, probabilities
from openlstm.train.task import Passage, Picture, Share, Table
from openlstm.train.text import TASK, Lanes, TextAbout, TextJob, TextModel
from openlstm.train.text_report import surprise_figure

SMALL = TextConfig(hidden=12, embedding=5, window=8, batch=4, epochs=2, steps_per_epoch=6, warmup=0, threads=1)
WORDS = ["the", "cat", "sat", "on", "the", "mat.\nA", "dog,", "2", "dogs;\n"]


def story(length: int = 1500, seed: int = 0) -> str:
    """Words in a random order."""
    random = np.random.default_rng(seed)
    return " ".join(random.choice(WORDS, length))[:length]


@pytest.fixture
def story_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text(story())
    return Path("story.txt")


def job_on(written: str, share: Share | None = None, **options: object) -> TextJob:
    """A job on a text in a file."""
    Path("of.txt").write_text(written)
    config = replace(SMALL, **options)
    return TASK.job(TASK.read([Path("of.txt")], config), config, share or Share())


def model_of(written: str = "abcdefgh \n") -> TextModel:
    """A model that was never trained, which knows the characters of a text. Its guesses are far from even."""
    torch.manual_seed(0)
    model = TextModel(SMALL.spec(5), TextAbout("".join(sorted(set(written))), 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


def weights(model: nn.Module) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in model.state_dict().values()]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


# The n-gram model.


def counted(train: list[int], context: list[int], symbol: int, symbols: int, order: int) -> float:
    """Kneser-Ney by its formulas, with a discount of 1/2: a loop over all that is counted."""

    def count(n: int) -> dict[tuple[int, ...], dict[int, int]]:
        found: dict[tuple[int, ...], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        if n == order:
            for k in range(len(train) - n + 1):
                found[tuple(train[k : k + n - 1])][train[k + n - 1]] += 1
        else:  # how many different symbols stand before
            for run in {tuple(train[k : k + n + 1]) for k in range(len(train) - n)}:
                found[run[1:-1]][run[-1]] += 1
        return found

    p = 1 / symbols
    for n in range(1, order + 1):
        counts = count(n)[tuple(context[len(context) - n + 1 :])]
        if total := sum(counts.values()):
            p = (max(counts.get(symbol, 0) - 0.5, 0) + 0.5 * len(counts) * p) / total
    return p


@pytest.mark.parametrize(("length", "symbols", "order"), [(3, 4, 3), (25, 3, 2), (40, 3, 4), (12, 6, 1)])
def test_an_ngram_model_is_what_its_formulas_say(length, symbols, order, monkeypatch):
    monkeypatch.setattr("openlstm.train.ngram._discounts", lambda counts: np.array([0, 0.5, 0.5, 0.5]))
    random = np.random.default_rng(length)
    train = random.integers(0, symbols - 1, length)  # one symbol is never seen
    for _ in range(20):
        run = random.integers(0, symbols, order + 1)
        expected = counted(train.tolist(), run[:-1].tolist(), int(run[-1]), symbols, order)
        assert probabilities(train, run, symbols, order)[-1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("length", "symbols"), [(1, 3), (40, 1), (300, 5), (3000, 4), (200, 30)])
@pytest.mark.parametrize("order", [1, 2, 5, 9])
def test_probabilities_of_all_symbols_add_up_to_1(length, symbols, order):
    random = np.random.default_rng(0)
    train = (random.integers(0, symbols, length) * random.integers(0, 2, length)).astype(np.uint8)
    for _ in range(5):
        context = random.integers(0, symbols, 10)
        every = [probabilities(train, np.append(context, symbol), symbols, order)[-1] for symbol in range(symbols)]
        assert min(every) > 0 and sum(every) == pytest.approx(1, abs=1e-12)


def test_an_ngram_model_counts_nothing_of_the_test():
    random = np.random.default_rng(0)
    train, test = random.integers(0, 5, 500), random.integers(0, 5, 90)
    assert np.array_equal(probabilities(train, test, 5)[:30], probabilities(train, test[:30], 5))
    assert ngram_bits(train, test, 5, 1) == pytest.approx(math.log2(5), abs=0.05)  # there is nothing to know


def test_an_ngram_model_knows_symbols_by_number_only():
    """A large alphabet does not overflow: 5 of its symbols would need 100 bits."""
    random = np.random.default_rng(0)
    train, test = random.integers(0, 3, 400), random.integers(0, 3, 50)
    few, many = (probabilities(scale * train, scale * test, 2**20) for scale in (1, 500_000))
    np.testing.assert_array_equal(few, many)


# What is read.


def test_files_are_one_text(tmp_path):
    (tmp_path / "a.txt").write_bytes("\N{BYTE ORDER MARK}b a\r\nñ".encode())
    (tmp_path / "b.txt").write_bytes(b"a\nb\n")
    data = TASK.read([tmp_path / "a.txt", tmp_path / "b.txt"], SMALL)
    assert (data.decode(data.ids), data.alphabet) == ("b a\nña\nb\n", "\n abñ")
    lines = [f"{tmp_path / 'a.txt'}:1"] * 4 + [f"{tmp_path / 'a.txt'}:2"]
    lines += [f"{tmp_path / 'b.txt'}:1"] * 2 + [f"{tmp_path / 'b.txt'}:2"] * 2
    assert [data.where(k) for k in range(len(data.ids))] == lines
    again = model_of(data.alphabet).read([tmp_path / "a.txt", tmp_path / "b.txt"])
    assert (again.decode(again.ids), again.begins.tolist(), again.names) == ("b a\nña\nb\n", [0, 5], data.names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no file 'it.txt': give a text file"),
        (b"", "'it.txt' is empty: expected text"),
        (b"\xef\xbb\xbf", "'it.txt' is empty: expected text"),
        (b"good\nbad \xff\n", "'it.txt' is no text in UTF-8, from line 2 on: save it as UTF-8"),
        (b"cut off \xe4\xb8", "'it.txt' is no text in UTF-8, from line 1 on: save it as UTF-8"),
    ],
)
def test_what_is_no_text(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("it.txt").write_bytes(content)
    error = FileNotFoundError if content is None else ValueError
    for given in (
        lambda: TASK.read([Path("it.txt")], SMALL),
        lambda: model_of().read([Path("it.txt")]),
        lambda: list(model_of().predict([Path("it.txt")])),
        lambda: model_of().look(Path("it.txt")),
    ):
        with pytest.raises(error) as raised:
            given()
        assert str(raised.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test": 0.5, "validation": 0.5, "batch": 12},
            "'of.txt' has 300 characters, which leaves 75 to train on after 75 for validation and 150 for the test: "
            "expected at least 96, for 12 sequences of 8; give a longer text, or make batch, window or test smaller",
        ),
        (
            {"test": 400},
            "'of.txt' has 300 characters, which leaves 0 to train on after 1 for validation and 400 for the test: "
            "expected at least 32, for 4 sequences of 8; give a longer text, or make batch, window or test smaller",
        ),
        ({"test": 2.5}, "test is 2.5: expected a share such as 0.2, or a number of characters such as 60"),
        (
            {"validation": 1.5},
            "validation is 1.5: expected a share such as 0.2, or a number of characters such as 60",
        ),
        (
            {"recurrent": {"bidirectional": True}},
            "bidirectional layers read what text is to say: leave that option out",
        ),
    ],
)
def test_what_leaves_nothing_to_train_on(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        job_on(story(300), **options)
    assert str(error.value) == message


def test_characters_that_the_model_does_not_know(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(text, "PIECE", 5)
    Path("it.txt").write_text("abc\n" * 4 + "ab€c")
    message = (
        "'it.txt' has '€' (U+20AC) in line 5, which this model has never read: leave it out, or train on text that "
        "has it, or by bytes"
    )
    predicted = model_of().predict([Path("it.txt")])
    for given in (lambda: next(predicted), lambda: model_of().read([Path("it.txt")])):
        with pytest.raises(ValueError) as error:
            given()
        assert str(error.value) == message
    Path("it.txt").write_text("a")
    with pytest.raises(ValueError, match=r"^'it.txt' has one character: expected at least 2, for the first is not "):
        model_of().read([Path("it.txt")])


@pytest.mark.parametrize(
    ("about", "spec", "message"),
    [
        ({"alphabet": "ba"}, "", "its alphabet is not made of different characters in order"),
        ({"alphabet": ""}, "", "its alphabet is not made of different characters in order"),
        ({"alphabet": ["a", "b"]}, "", "its alphabet is not made of different characters in order"),
        ({"embedding": -5}, "", "its embedding is -5, expected a whole number of at least 1"),
        ({"embedding": "5"}, "", "its embedding is '5', expected a whole number of at least 1"),
        ({"embedding": 6}, "", "its layers are lstm(5, 12; forget_bias=1.0), expected 6 inputs, one direction and "),
        ({}, "lstm(5, 12; bidirectional)", "its layers are lstm(5, 12; bidirectional), expected 5 inputs, one "),
        ({}, "lstm(5, 12; batch_first)", "its layers are lstm(5, 12; batch_first), expected 5 inputs, one direction "),
        ({"more": 1}, "", "TextAbout.__init__() got an unexpected keyword argument 'more'"),
    ],
)
def test_a_hostile_model_file(tmp_path, about, spec, message):
    path = tmp_path / "m.safetensors"
    model_of().save(path)
    tensors, metadata = file.read(path, "torch")
    metadata["task"] = json.dumps(json.loads(metadata["task"]) | about)
    file.write(path, tensors, metadata | ({"spec": spec} if spec else {}))
    with pytest.raises(ValueError) as error:
        load(path)
    assert str(error.value).startswith(f"'{path}' holds a task that this openlstm cannot use: {message}")


# Training.


def test_nothing_of_the_test_and_validation_parts_is_learned(story_file):
    """Other characters there change scores, and not a single weight."""
    plain = story()
    first, other = job_on(plain), job_on(plain[:1200] + story(300, seed=1))
    assert first.data.alphabet == other.data.alphabet and first.validation > 1200
    first, other = (job_on(each.data.decode(each.data.ids), test=200, validation=100) for each in (first, other))
    curves = [loop.train(job, keep=lambda: None).curve for job in (first, other)]
    assert [step["training loss"] for step in curves[0]] == [step["training loss"] for step in curves[1]]
    assert [step["bits a character"] for step in curves[0]] != [step["bits a character"] for step in curves[1]]
    assert same(first.model, other.model)


def test_lanes_go_over_the_text_once():
    """In one pass each character is read once, but for a rest; the next pass begins elsewhere."""
    ids, count = np.arange(103), 4
    lanes = Lanes(ids, 2, 5, 0, Share(0, 2)), Lanes(ids, 2, 5, 0, Share(1, 2))
    assert len(lanes[0]) == 103 // count // 5
    begins = []
    for number in (0, 1):
        walks = [[batch for batch, _ in each.walk(number)] for each in lanes]
        read = np.concatenate([x[:-1].ravel() for walk in walks for x, _ in walk])
        assert len(read) == len(set(read.tolist())) == 100
        for walk in walks:
            assert [begins for _, begins in walk] == [True] + [False] * 4
            whole = torch.cat([walk[0][0][:1], *(x[1:] for x, _ in walk)])
            assert ((whole[1:] - whole[:-1]) % 103 == 1).all()
            assert all(torch.equal(a[-1], b[0]) for (a, _), (b, _) in itertools.pairwise(walk))
        begins.append(int(read[0]))
        late = next(lanes[0].walk(number, 3))[0][0]
        assert torch.equal(late, walks[0][3][0])
    assert begins[0] != begins[1]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_state_goes_from_batch_to_batch(story_file, cell):
    """Two windows cost what one of twice the length does."""
    short, long = (job_on(story(), cell=cell, window=window) for window in (8, 16))
    walk = [batch for batch, _ in short.batches.walk(0)][:4]
    whole = [batch for batch, _ in long.batches.walk(0)][:2]
    costs = [short.loss(batch)[0].item() for batch in walk]
    assert [costs[0] + costs[1], costs[2] + costs[3]] == pytest.approx(
        [long.loss(b)[0].item() for b in whole], rel=1e-5
    )
    begins = short.loss((walk[3][0], True))[0].item()  # where lanes begin, nothing is known
    assert begins == job_on(story(), cell=cell).loss((walk[3][0], True))[0].item() != pytest.approx(costs[3], rel=1e-4)
    short.loss(walk[2])
    carried = short.carried()
    assert list(carried) == (["0", "1"] if cell == "lstm" else ["0"])
    other = job_on(story(), cell=cell)
    other.carry(carried)
    assert other.loss(walk[3])[0].item() == short.loss(walk[3])[0].item()


def test_two_processes_do_what_one_does_with_the_doubled_batch(story_file, monkeypatch):
    monkeypatch.setattr(text, "LANE", 20)
    whole = job_on(story(), batch=6)
    shares = [job_on(story(), Share(rank, 2), batch=3) for rank in (0, 1)]
    for number, begin in ((0, 0), (1, 1)):
        for job in (whole, *shares):
            job.model.zero_grad()
        walks = [job.batches.walk(number, begin) for job in (whole, *shares)]
        for _ in range(2):
            counts, totals = [], []
            for job, walk in zip((whole, *shares), walks, strict=True):
                total, count = job.loss(next(walk)[0])
                total.backward()
                totals.append(total.item())
                counts.append(count)
            assert counts[0] == counts[1] + counts[2]
            assert totals[0] == pytest.approx(totals[1] + totals[2], rel=1e-5)
        for one, *parts in zip(*(job.model.parameters() for job in (whole, *shares)), strict=True):
            torch.testing.assert_close(parts[0].grad + parts[1].grad, one.grad, rtol=1e-4, atol=1e-4)
    scores = [job.score() for job in (whole, *shares)]
    for name, expected in scores[0].items():
        assert [a + b for a, b in zip(scores[1][name], scores[2][name], strict=True)] == pytest.approx(expected)


class Killed(Exception):
    pass


def test_killed_and_resumed_gives_the_same_bits(story_file, tmp_path, monkeypatch):
    """In the middle of a pass, with states that were carried, dropout, and a schedule."""
    monkeypatch.setattr(loop, "EVERY", 0)
    options = {"epochs": 4, "steps_per_epoch": 5, "dropout": 0.3, "schedule": "cosine", "patience": 9, "layers": 2}
    whole = job_on(story(), **options)
    expected = loop.train(whole, folder=tmp_path / "whole", data="it")
    killed = job_on(story(), **options)
    seen = []

    def score() -> dict[str, tuple[float, float]]:
        if len(seen) == 2:
            raise Killed
        seen.append(1)
        return TextJob.score(killed)

    monkeypatch.setattr(killed, "score", score)
    with pytest.raises(Killed):
        loop.train(killed, folder=tmp_path / "cut", data="it")
    resumed = job_on(story(), **options)
    outcome = loop.train(resumed, folder=tmp_path / "cut", data="it", resume=True)
    assert outcome.resumed == 2 and outcome.curve == expected.curve
    assert same(whole.model, resumed.model)


def test_one_seed_one_model(story_file):
    state = torch.random.get_rng_state()
    jobs = [job_on(story(), seed=seed) for seed in (1, 1, 2)]
    for job in jobs:
        loop.train(job)
    assert same(jobs[0].model, jobs[1].model) and not same(jobs[0].model, jobs[2].model)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's numbers are not disturbed


@pytest.mark.parametrize(
    ("cell", "layers", "options"),
    [
        ("lstm", 1, {"peephole": "diagonal", "coupled": "f=1-i"}),
        ("lstm", 2, {"proj_size": 3, "layer_norm": True, "zoneout_h": 0.1, "cell_clip": 3.0, "residual": True}),
        ("lstm", 2, {"learned_state": True, "forget_bias": 1.0, "peephole": "dense"}),
        ("gru", 1, {"reset": "before", "weight_dropout": 0.2, "learned_state": True}),
        ("rnn", 1, {"nonlinearity": "relu", "recurrent_dropout": 0.2}),
    ],
)
def test_recurrent_options_reach_the_layers(story_file, tmp_path, cell, layers, options):
    job = job_on(story(), cell=cell, layers=layers, recurrent=options, dropout=0.1)
    for name, value in options.items():
        assert getattr(job.model.recurrent, name) == value
    for batch, _ in list(job.batches.walk(0))[:2]:  # where lanes begin, and where they go on
        job.model.zero_grad()
        job.loss(batch)[0].backward()
        assert [n for n, p in job.model.named_parameters() if p.grad is None] == []
    job.model.save(tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.spec == job.model.spec and same(again, job.model)


def test_it_learns(story_file):
    """A text that repeats costs nothing once it is known, and the report says so."""
    job = job_on("abcabd\n" * 300, hidden=32, epochs=4, steps_per_epoch=60, learning_rate=0.02, schedule="cosine")
    outcome = loop.train(job)
    assert outcome.curve[0]["training loss"] > 0.1 > outcome.best_score
    results = job.results()
    json.dumps(results.metrics)
    assert results.metrics["bits a character"] < 0.05 and results.metrics["guessed right"] == 1
    others = results.metrics["bits a character of others"]
    assert others["all alike"] == math.log2(5) and 2 < others["frequencies"] < math.log2(5)
    assert others["5-gram"] < 0.5
    assert results.metrics["characters"] == 105
    kinds = [type(part) for part in results.parts]
    assert kinds[0] is Table and set(kinds) == {Table, Picture, Passage}
    for part in results.parts:
        if isinstance(part, Table):
            assert part.rows and {len(row) for row in part.rows} == {len(part.columns)}
        if isinstance(part, Picture):
            write(part.figure, Path("picture.png"))
    passage = next(part for part in results.parts if isinstance(part, Passage))
    assert "abcabd\nabcabd\n" in passage.text
    assert {row[0] for row in results.parts[2].rows} == {"letter that begins a word", "other letter", "line end"}


def test_worst_passages_are_named(story_file):
    """In a text of one letter what costs is where others are: in the third of these lines."""
    job = job_on("a" * 400 + "\n" + "a" * 99 + "\n" + "a" * 59 + "zyxw" * 10 + "\n" + "a" * 200, test=400)
    loop.train(job)
    table = next(p for p in job.results().parts if isinstance(p, Table) and p.title == "The passages that cost most")
    assert table.rows[0][0] == "of.txt:3" and "zyxw" in table.rows[0][2]


# What it says.


def test_a_long_text_is_scored_in_lanes(monkeypatch):
    """Lanes that have read all before them score as one does; those that have read some, nearly."""
    written = story(700)
    model = model_of(written)
    ids = np.searchsorted(list(model.about.alphabet), list(written))
    whole = model.score(ids)
    assert len(whole.bits) == len(ids) - 1
    monkeypatch.setattr(text, "LANE", 90)
    monkeypatch.setattr(text, "STEPS", 33)
    for before, tolerance in ((700, 1e-5), (100, 0.2)):
        monkeypatch.setattr(text, "BEFORE", before)
        for begin in (1, 2, 150):
            found = model.score(ids, begin)
            np.testing.assert_allclose(found.bits, whole.bits[begin - 1 :], atol=tolerance)
            assert (found.right == whole.right[begin - 1 :]).mean() > 0.99
            parts = [model.score(ids, begin, Share(rank, 3)) for rank in range(3)]
            assert sum(len(part.bits) for part in parts) == len(found.bits)
            assert sum(part.bits.sum() for part in parts) == pytest.approx(found.bits.sum(), rel=1e-5)
    with torch.no_grad():
        odds, _ = model(torch.from_numpy(ids)[:-1, None])
    expected = nn.functional.cross_entropy(odds[:, 0], torch.from_numpy(ids)[1:], reduction="none") / math.log(2)
    np.testing.assert_allclose(whole.bits, expected, atol=1e-5)


def test_a_score_begins_with_learned_states():
    config = replace(SMALL, recurrent={"learned_state": True})
    model = TextModel(config.spec(5), TextAbout("ab", 5)).eval()
    nn.init.normal_(model.recurrent.initial_h_l0, std=3)
    ids = np.array([0, 1, 1, 0])
    with torch.no_grad():
        odds, _ = model(torch.from_numpy(ids)[:-1, None])
    expected = nn.functional.cross_entropy(odds[:, 0], torch.from_numpy(ids)[1:], reduction="none") / math.log(2)
    np.testing.assert_allclose(model.score(ids).bits, expected, atol=1e-6)


def test_predictions_do_not_depend_on_pieces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = story(500)
    Path("a.txt").write_text(written[:200])
    Path("b.txt").write_text(written[200:])
    model = model_of(written)
    frames = {}
    for size in (7, 100, 4096):
        monkeypatch.setattr(text, "PIECE", size)
        parts = list(model.predict([Path("a.txt"), Path("b.txt")]))
        assert max(map(len, parts)) <= size
        frames[size] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    whole = frames[4096]
    assert whole["file"].tolist() == ["a.txt"] * 200 + ["b.txt"] * 300
    assert whole["position"].tolist() == [*range(200), *range(300)]
    assert "".join(whole["character"]) == written
    assert np.isnan(whole["bits"][0]) and whole["guess"][0] == ""
    scored = model.score(np.searchsorted(list(model.about.alphabet), list(written)))
    np.testing.assert_allclose(whole["bits"][1:], scored.bits, atol=1e-5)
    assert (whole["guess"] == whole["character"])[1:].tolist() == scored.right.tolist()
    assert (2 ** -whole["bits"][1:] <= whole["odds"][1:] + 1e-6).all()
    for frame in frames.values():
        for name in whole:
            if name in ("bits", "odds"):
                np.testing.assert_allclose(frame[name], whole[name], atol=1e-5)
            else:
                assert np.array_equal(frame[name], whole[name])


def test_writing_goes_on_after_the_prompt():
    written = story(60)
    model = model_of(written)
    drawn = model.sample(written, 40)
    assert len(drawn) == 40 and drawn == model.sample(written, 40, seed=0) != model.sample(written, 40, seed=1)
    likeliest = written
    for _ in range(40):  # by reading all again for each character
        with torch.no_grad():
            odds, _ = model(torch.tensor([[model.about.alphabet.index(c)] for c in likeliest]))
        likeliest += model.about.alphabet[int(odds[-1, 0].argmax())]
    for cold in (0, 1e-300):
        assert model.sample(written, 40, temperature=cold) == likeliest[60:]
    for options, message in (
        ({"length": 0}, "length is 0: expected at least 1"),
        ({"temperature": -0.5}, "temperature is -0.5: expected a number of at least 0"),
        ({"temperature": math.nan}, "temperature is nan: expected a number of at least 0"),
        ({"prompt": ""}, "The prompt is empty: give at least one character, which may be a line end"),
        (
            {"prompt": "€"},
            "The prompt has '€' (U+20AC), character 1, which this model has never read: give another prompt",
        ),
    ):
        with pytest.raises(ValueError) as error:
            model.sample(**options)
        assert str(error.value) == message


def test_bytes_of_any_file(tmp_path):
    """Every file can be read, and letters of several bytes are whole again in what is written."""
    content = ("naïve € 漢字\r\n" * 60).encode() + bytes(range(256))
    (tmp_path / "b.bin").write_bytes(content)
    config = replace(SMALL, unit="byte", epochs=1, test=40)
    data = TASK.read([tmp_path / "b.bin"], config)
    assert bytes(data.ids) == content and len(data.alphabet) == 256
    job = TASK.job(data, config, Share())
    loop.train(job)
    job.model.save(tmp_path / "m.safetensors")
    model = text.TextModel.load(tmp_path / "m.safetensors")
    assert bytes(model.read([tmp_path / "b.bin"]).ids.astype(np.uint8)) == content
    (tmp_path / "c.bin").write_bytes(b"\xff\x00")
    table = pd.concat(model.predict([tmp_path / "c.bin"]))
    assert table["byte"].tolist() == [255, 0] and table["guess"].tolist()[0] == ""
    assert data.decode(data.ids[:20]) == content[:20].decode() and len(data.signs(data.ids[:20])) == 20
    assert model.sample("€", 9) == model.sample("€", 9)
    results = job.results()
    assert "bits a byte" in job.score() and results.metrics["bits a byte"] > 0 and results.metrics["bytes"] == 40
    told = " ".join(f"{part.title} {part.note} {getattr(part, 'columns', '')}" for part in results.parts)
    assert "40 bytes" in told and "character" not in told


def test_what_is_drawn_has_the_odds_of_the_model():
    model = model_of("abc")
    prompt = np.array([0, 2])
    with torch.no_grad():
        odds = model(torch.from_numpy(prompt)[:, None])[0][-1, 0].div(1.5).softmax(-1)
    drawn = "".join(model.write(iter([prompt]), 1, 1.5, seed) for seed in range(600))
    np.testing.assert_allclose([drawn.count(c) / 600 for c in "abc"], odds, atol=0.06)


def test_looking_into_a_file(tmp_path):
    (tmp_path / "it.txt").write_text("abc\n" * 1000)
    model = model_of()
    trace, shown = model.look(tmp_path / "it.txt")
    assert shown == ("abc\n" * 1000)[: text.SHOWN] and trace["c"].shape == (text.SHOWN, 1, 12)
    part = model.trace(model.read([tmp_path / "it.txt"]).ids[:50], last=20)
    np.testing.assert_array_equal(part["c"], trace["c"][30:50])


def test_a_model_is_evaluated_on_another_file(tmp_path):
    (tmp_path / "it.txt").write_text("ab\nba dc\n")
    results = model_of().evaluate(model_of().read([tmp_path / "it.txt"]))
    assert results.metrics["characters"] == 8 and list(results.metrics["bits a character of others"]) == ["all alike"]
    (tmp_path / "it.txt").write_text("ab")  # as little as there can be
    assert model_of().evaluate(model_of().read([tmp_path / "it.txt"])).metrics["characters"] == 1


def test_any_character_is_drawn(tmp_path):
    """Mathematics is not read as such, and what the font lacks or cannot be seen has a sign."""
    shown = "$x^2$ \\frac{\t\x00\n\n" + "长" * 100 + "\U0001f600\n" * 50
    write(surprise_figure(shown, np.linspace(0, 20, len(shown), dtype=np.float32)), tmp_path / "picture.png")
