"""The experiment of Sak, Senior and Beaufays 2014: its sizes are the paper's, and its corpus is what it says."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from benchmarks.sak2014 import corpus, models


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


@pytest.mark.parametrize("outputs", [126, 1176])
@pytest.mark.parametrize("name", models.ROWS)
def test_rows_are_of_one_size(name, outputs):
    target = models.target(outputs)
    for layers in (1, 2, 5):
        spec = models.ROWS[name].fitted(target, outputs, layers)
        assert abs(models.weights(spec, outputs) / target - 1) < 0.03 and spec.num_layers == layers


SPANS = ((0, 100, "sil", "sil"), (100, 1000, "p", "sil"), (1000, 5000, "t", "p"), (5000, 9**9, "sil", "t"))


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
        assert part.states(True).min() >= 0 and part.states(False).max() < 126
    assert corpus.load(tmp_path / "none") is None
