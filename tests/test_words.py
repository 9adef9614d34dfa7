"""Counts have the noun that goes with them, and unknown words the known one that is close."""

from __future__ import annotations

import numpy as np
import pytest

from openlstm.words import counted, meant


@pytest.mark.parametrize(
    ("count", "nouns", "said"),
    [
        (0, ("step",), "0 steps"),
        (1, ("step",), "1 step"),
        (np.int64(1), ("step",), "1 step"),
        (2, ("step",), "2 steps"),
        (11, ("step",), "11 steps"),
        (12345, ("step",), "12,345 steps"),
        (1, ("entry", "entries"), "1 entry"),
        (3, ("entry", "entries"), "3 entries"),
        ("1", ("step",), "1 step"),
        ("1.5", ("step",), "1.5 steps"),
        ("infinitely many", ("step",), "infinitely many steps"),
    ],
)
def test_a_count_and_its_noun(count, nouns, said):
    assert counted(count, *nouns) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("peepholes", "; did you mean 'peephole'?"),
        ("resting", "; did you mean 'Resting'?"),
        ("num_layer", "; did you mean 'num_layers'?"),
        ("num_layers", ""),
        ("colour", ""),
        ("", ""),
    ],
)
def test_what_was_meant(given, said):
    assert meant(given, ("peephole", "Resting", "num_layers")) == said
