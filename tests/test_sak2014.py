"""The experiment of Sak, Senior and Beaufays 2014: its sizes are the paper's, and its corpus is what it says."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.sak2014 import corpus, experiment, look, models, report, speed, training


@pytest.mark.parametrize(
    ("cells", "r", "p", "outputs", "legend"),
    [(*sizes, outputs, text) for sizes, each in models.LEGENDS.items() for outputs, text in each.items()],
)
def test_sizes_are_those_of_the_legends(cells, r, p, outputs, legend):
    """By the paper's formulas (section 2), and as its figures' legends round them."""
    n_i, n_c, n_r, n_p, n_o = models.INPUTS, cells, r, p, outputs
    if r:
        formula = n_c * n_r * 4 + n_i * n_c * 4 + (n_r + n_p) * n_o + n_c * (n_r + n_p) + n_c * 3
    else:
        formula = n_c * n_c * 4 + n_i * n_c * 4 + n_c * n_o + n_c * 3
    found = models.weights(models.paper(cells, r, p), outputs)
    assert found == formula
    digits = len(legend.partition(".")[2]) - 1 if "." in legend else 0
    said = float(legend.removesuffix("M"))
    if (cells, p, outputs) == (2048, 256, 126):  # 3.54 million: the one legend that does not round so
        assert round(found / 1e6, 2) == 3.54
    else:
        assert round(found / 1e6, digits) == said


@pytest.mark.parametrize("outputs", [126, 1008])
@pytest.mark.parametrize("name", models.ROWS)
def test_rows_are_of_one_size(name, outputs):
    target = models.target(outputs)
    for layers in (1, 2, 5):
        spec = models.ROWS[name].fitted(target, outputs, layers)
        assert abs(models.weights(spec, outputs) / target - 1) < 0.03 and spec.num_layers == layers


@pytest.mark.parametrize("outputs", [126, 1008])
@pytest.mark.parametrize("name", models.WINDOWS)
def test_feed_forward_nets_are_of_that_size(name, outputs):
    window = models.WINDOWS[name]
    units, target = window.fitted(models.target(outputs), outputs), models.target(outputs)
    net = training.Net(window, units)
    own = sum(p.numel() for p in net.parameters() if p.dim() == 2) + units * outputs
    assert own == window.weights(units, outputs) and abs(own / target - 1) < 0.03


def test_phones_and_states():
    assert len(corpus.PHONES) == 42 and len(corpus.CLASSES) == 42 and len(set(corpus.FOLDED.values())) == 42
    phones = [(100, "p"), (1000, "aa"), (1000, "t"), (3000, "t"), (5000, "sil")]
    phone, third, before = corpus.labels(phones, 30, 7000)
    middle = (np.arange(30) * corpus.HOP * corpus.RATE + corpus.WINDOW * corpus.RATE / 2).astype(int)
    for k, at in enumerate(middle):  # a phone of no length is left out, and equal ones are one
        begin, end, name, last = next(
            part
            for part in (
                (0, 100, "sil", "sil"),
                (100, 1000, "p", "sil"),
                (1000, 5000, "t", "p"),
                (5000, 9**9, "sil", "t"),
            )
            if part[0] <= at < part[1]
        )
        assert corpus.PHONES[phone[k]] == name and corpus.PHONES[before[k]] == last
        assert third[k] == min(2, 3 * (at - begin) // (min(end, 7000) - begin))


def test_sentences_of_new_words_have_no_others():
    some, new = (" ".join(corpus.sentences(300, 0, k)).lower() for k in (False, True))
    for name in ("person", "deed", "thing", "place", "time", "why"):
        for k, word in enumerate(corpus.GRAMMAR[name]):
            own, other = (new, some) if k % 5 == 4 else (some, new)
            assert f" {word.lower()}" in f" {own}", word
            assert not any(f" {word.lower()}{end}" in f" {other}" for end in (" ", ".", "?", ",")), word
    assert not set(corpus.GRAMMAR["voices"]) & set(corpus.GRAMMAR["new_voices"])


def test_a_tone_is_in_its_filter():
    time = np.arange(corpus.RATE) / corpus.RATE
    centres = corpus.filters().argmax(0) * corpus.RATE / corpus.POINTS
    for hertz in (200, 1000, 4000):
        found = corpus.spectrum((8000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16))
        assert found.shape == (98, corpus.FILTERS)
        assert abs(centres[found.mean(0).argmax()] - hertz) < 0.12 * hertz + 30


def test_noise_is_drawn_for_each_sentence():
    clean = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float16)
    lengths = np.array([20, 30])
    one, again, other = (corpus.noisy(clean, lengths, seed) for seed in (1, 1, 2))
    assert (one == again).all() and (one != other).all() and np.isfinite(one).all()
    alone = corpus.noisy(clean[:20], lengths[:1], 1)
    np.testing.assert_array_equal(alone, one[:20])


@pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed")
def test_the_corpus_is_made_and_kept(tmp_path):
    parts = corpus.make(corpus.Sizes(4, 2, 2))
    corpus.save(parts, tmp_path)
    again = corpus.load(tmp_path)
    assert again is not None and corpus.digest(again) == corpus.digest(parts)
    for part in parts.values():
        assert len(part.clean) == part.lengths.sum() == len(part.phones)
        assert part.states.min() >= 0 and corpus.inventory(part, False)[part.states].max() < 126
    assert corpus.load(tmp_path / "none") is None


def speech(sentences=160, seed=0):
    """Sentences of two to five phones, each of which sounds alike."""
    random = np.random.default_rng(seed)
    sounds = np.random.default_rng(9).normal(size=(4, corpus.FILTERS))
    phones, thirds, before, lengths = [], [], [], []
    for _ in range(sentences):
        own = random.integers(0, 4, random.integers(2, 6))
        counts = 3 * random.integers(2, 5, len(own))
        phones.append(own.repeat(counts))
        thirds.append(np.concatenate([np.arange(n) * 3 // n for n in counts]))
        before.append(np.append(0, own[:-1]).repeat(counts))
        lengths.append(counts.sum())
    whole = [np.concatenate(each).astype(np.int16) for each in (phones, thirds, before)]
    clean = (sounds[whole[0]] + 0.3 * whole[1][:, None]).astype(np.float16)
    names = tuple(map(str, range(sentences)))
    return corpus.Part(clean, np.array(lengths), *whole, names, names)


def test_rare_states_share_a_class():
    part = speech()
    states, found = part.states, corpus.inventory(part, True)
    classes = found[states]
    assert sorted(set(found)) == list(range(found.max() + 1))
    thirds = 3 * part.phones.astype(int) + part.thirds
    assert all(len(set(thirds[classes == k])) == 1 for k in set(classes))
    counts = np.bincount(states, minlength=len(found))
    own = [k for k in range(len(found)) if counts[k] >= corpus.LEAST]
    alone = [k for k in own if (found == found[k]).sum() == 1]
    assert alone and all(np.bincount(classes)[found[k]] >= corpus.LEAST for k in own)
    contexts = len(corpus.GRAMMAR["phones"])
    for k in range(len(found)):  # of what was never seen, the phone and the third are right too
        if k // contexts in set(thirds):
            assert set(states[classes == found[k]] // contexts) <= {k // contexts}
    plain = corpus.inventory(part, False)
    assert (plain[states] == thirds).all() and plain.max() == 125


def test_a_window_sees_the_frames_beside_its_own():
    part, window = speech(5), models.Window(2, 1)
    found = training.Speech(part, corpus.inventory(part, False), None, window)
    rows = (found.sentence >= 0).nonzero()[:, 0]
    assert len(rows) == len(part.clean)
    at = 0
    for k, length in enumerate(part.lengths):
        for t in range(length):
            near = [at + min(max(t + d, 0), length - 1) for d in (-2, -1, 0, 1)]
            row = rows[at + t]
            np.testing.assert_array_equal(found.data.x[row], part.clean[near].astype(np.float32).ravel())
            assert found.sentence[row] == k and found.data.codes[row] == 3 * part.phones[at + t] + part.thirds[at + t]
        at += length
    chosen = torch.tensor([True, False, False, True, False])
    before = found.places.clone()
    found.fill(chosen, 7)
    changed = (found.places != before).any(1)
    assert (changed == chosen[found.own]).all()
    expected = corpus.noisy(part.clean[: part.lengths[0]], part.lengths[:1], 7)
    np.testing.assert_array_equal(found.data.x[rows[2]][2 * models.INPUTS : 3 * models.INPUTS], expected[2])


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(training, "DEVELOPMENT", 20)


@pytest.mark.parametrize(("row", "layers"), [("LSTMP, r and p", 2), ("feed-forward", 1), ("feed-forward, in order", 1)])
def test_models_learn_what_sounds_alike(short, row, layers):
    """And noise is drawn anew for each pass, on the sentences that are trained on alone."""
    part = speech()
    parts = {"train": part, "seen": speech(20, 1), "new": speech(20, 2)}
    job, _ = experiment.made(experiment.Asked(row, layers=layers, rate=1e-2, epochs=3), parts)
    assert bool(job.window) == (row in models.WINDOWS)
    x = [job.speech.places.clone()]
    for number in (1, 2):
        job.renew(number)
        x.append(job.speech.places.clone())
    changed = (x[1] != x[2]).any(1)
    assert (changed == job.chosen[job.speech.own]).all() and (x[0][~changed] == x[1][~changed]).all()
    told = training.train(parts, job)
    assert len(told.curve) == 3 and told.frames == 3 * int(part.lengths[job.chosen.numpy()].sum())
    assert told.seen > 20 and told.new > 20  # one state of twelve is 8


def test_results_are_kept_and_read(short, tmp_path):
    parts = {"train": speech(), "seen": speech(20, 1), "new": speech(20, 2)}
    corpus.save(parts, tmp_path)
    asked = experiment.Asked("GRU", rate=1e-2, epochs=experiment.EPOCHS)
    found = experiment.learn((asked, tmp_path))
    path = tmp_path / "results.csv"
    experiment.write([found], path)
    assert experiment.read(path) == [found] and found.asked == asked
    assert experiment.kept(asked, tmp_path).is_file()
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="--anew"):
        experiment.read(path)


def test_the_best_rate_of_the_grid_is_taken(tmp_path):
    own = experiment.Experiment(tmp_path, tmp_path / "none.csv", "5" * 64, None)
    grid = own.grid([experiment.Asked("RNN"), experiment.Asked("GRU")])
    for asked, score in zip(grid, (1, 4, 3, 2, 9, 8, 7, 6), strict=True):
        row = (*("5" * 12, asked.row, asked.context, asked.layers, asked.rate, asked.epochs, asked.seed),)
        own.found.append(experiment.Found(*row, asked.sentences, asked.noise, "", 0, f"{score} 0", 0, 0, 0, 0, ""))
    assert own.best(experiment.Asked("RNN", seed=2)) == experiment.Asked("RNN", rate=experiment.RATES[1], seed=2)
    assert own.best(experiment.Asked("GRU")).rate == experiment.RATES[0]
    assert [each.rate for each in own.rates(experiment.Asked("GRU"))] == [experiment.RATES[0]]
    own.found[5] = replace(own.found[5], curve="8.9 0")  # of the GRU: as good as the first
    assert [each.rate for each in own.rates(experiment.Asked("GRU", seed=1))] == list(experiment.RATES[:2])


def test_what_torch_has():
    own = {row for row in models.ROWS if speed.has(models.ROWS[row].spec(40))}
    assert own == {"RNN", "GRU", "LSTM", "LSTM, peepholes", "LSTMP"}


@pytest.mark.parametrize("row", ["RNN", "GRU", "LSTM", "LSTMP"])
def test_torch_gives_the_same_gradients(short, monkeypatch, tmp_path, row):
    monkeypatch.setattr(speed, "PASSES", 2)
    corpus.save({name: speech() for name in ("train", "seen", "new")}, tmp_path)
    assert speed.differ((tmp_path, row, 2, False, 1)) < 1e-5
    assert speed.measure((tmp_path, row, 1, False, speed.KINDS[2], 1)) > 0


def test_boundaries_and_what_is_around_them():
    part = speech(3)
    new = look.boundaries(part)
    starts = np.cumsum(part.lengths) - part.lengths
    within = np.concatenate([np.append(False, np.diff(own) != 0) for own in np.split(part.phones, starts[1:])])
    assert (new == within).all()
    values = np.stack([new, np.ones(len(new))], 1).astype(float)
    found = look.around(values, part.lengths, new)
    assert found.shape == (look.BEFORE + 1 + look.AFTER, 2) and (found[:, 1] == 0).all()
    np.testing.assert_allclose(found[look.BEFORE : look.BEFORE + 2, 0], [1 - new.mean(), -new.mean()])


def test_a_look_needs_measured_rates_and_draws(tmp_path):
    own = experiment.Experiment(tmp_path, tmp_path / "none.csv", "5" * 64, None)
    with pytest.raises(ValueError, match="has no rates for LSTM, peepholes, 1 deep"):
        next(look.models_of(own, tmp_path, None))
    draw = np.random.default_rng(0).standard_normal
    about = {gate: draw((look.BEFORE + 1 + look.AFTER, 5)) for gate in look.GATES}
    lasting = {(row, layers): [draw(9) ** 2] * layers for row, each in experiment.DEEP.items() for layers in each}
    drawn = look.figure(about, {gate: draw(5) for gate in look.GATES}, lasting)
    assert [len(axes.lines) for axes in drawn.axes[3:6]] == [5, 0, 32]  # 16 layers: all, and the middle


def test_tables_have_means_deviations_and_the_best_rates():
    def found(row, rate, seed, seen, sentences=0, curve="1 2"):
        values = dict.fromkeys(experiment.Found.__annotations__, 0) | {"corpus": "", "context": False, "layers": 1}
        values |= {"epochs": experiment.EPOCHS, "noise": True, "new": seen - 5, "frames": 10**6, "curve": curve}
        values |= {"row": row, "rate": rate, "seed": seed, "seen": seen, "sentences": sentences}
        return experiment.Found(**values)

    runs = [found("RNN", 1e-3, seed, 50.0 + seed) for seed in range(3)] + [found("LSTM", 3e-3, 0, 60.0)]
    grid = [found("RNN", rate, 0, 0.0, experiment.HALF, curve=f"{score}") for rate, score in ((1e-3, 30), (3e-3, 20))]
    lines = report.everything([*grid, *runs])
    assert f"| RNN | 1 | 0 | 0.001 | {experiment.EPOCHS} | 51.0 ± 1.0 | 46.0 ± 1.0 |" in lines
    assert "| RNN | 1 | **30.0** | 20.0 |" in lines
    assert len(report.curves(runs).axes) == 1


def test_the_page_has_the_figures_that_were_measured():
    page = (Path(experiment.__file__).parents[2] / "docs" / "sak2014.md").read_text(encoding="utf-8").splitlines()
    found = experiment.read(Path(experiment.__file__).parents[2] / experiment.RESULTS)
    fast = report.speeds(Path(experiment.__file__).parents[2] / speed.RESULTS)
    assert found and len(fast) > 8
    assert [line for line in [*report.everything(found), *fast] if line not in page] == []
