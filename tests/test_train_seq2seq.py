"""Sequences to sequences: what is read, what the model computes, what it says, and that training keeps its promises."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import openlstm
from openlstm import convert, file, train
from openlstm.spec import Spec
from openlstm.train import loop, runs, seq2seq, seq2seq_files
from openlstm.train.config import RECURRENT, Seq2SeqConfig
from openlstm.train.seq2seq import BEGIN, END, PAD, SAID, TASK, UNKNOWN, Batch, Facts, Ids, Symbols, Translator
from openlstm.train.task import Share

SMALL = Seq2SeqConfig(hidden=8, embedding=5, epochs=2, batch=8, dropout=0.0)
ATTENTIONS = ["multiplicative", "additive"]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, on one thread."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write(pairs, name: str = "p.tsv") -> Path:
    text = pairs if isinstance(pairs, (str, bytes)) else "".join(f"{a}\t{b}\n" for a, b in pairs)
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Path(name)


def reversals(count: int = 60) -> list[tuple[str, str]]:
    """Words of up to five letters, backwards and in capitals."""
    chance = np.random.default_rng(0)
    words = dict.fromkeys("".join(chance.choice(list("abcd"), chance.integers(1, 6))) for _ in range(20 * count))
    return [(word, word[::-1].upper()) for word in list(words)[:count]]


def job_of(pairs=None, config: Seq2SeqConfig = SMALL, share: Share = Share(), **options):  # noqa: B008 - frozen
    config = replace(config, **options)
    return TASK.job(TASK.read([write(pairs or reversals())], config), config, share)


def translator(seed: int = 0, target: str = "xyz", limit: int = 5, **options) -> Translator:
    """A model that is not trained, but whose probabilities are far from even and depend on what was said before."""
    config = replace(SMALL, **options)
    facts = Facts("characters", tuple("abc"), tuple(target), config.attention, 0.0, float(limit - 1), 20)
    torch.manual_seed(seed)
    model = Translator(
        config.spec(config.embedding, **({"bidirectional": True} | dict(config.recurrent))), facts
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2 if parameter.dim() > 1 else 0
        model.output.weight *= 4
        model.output.bias[[END - SAID, UNKNOWN - SAID]] -= 2
    return model


def sources(model: Translator, *texts: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = Ids.of([[model.known[0][symbol] for symbol in text] for text in texts])
    return rows.take(torch.arange(len(texts)))


def message(error, call, *arguments, **options) -> str:
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    return str(caught.value)


# Files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "'p.tsv' is empty: expected a source, a tab and a target in each line"),
        ("\ufeff\n\n", "'p.tsv' is empty: expected a source, a tab and a target in each line"),
        ("a\tb\nab\n", "'p.tsv' has no tab in line 2: expected a source, a tab and a target"),
        (
            "a\tb\tc\td\n",
            "'p.tsv' has 3 tabs in line 1: expected one, between source and target; leave other columns out",
        ),
        ("\tb\n", "'p.tsv' has an empty source in line 1: expected text; take the line out"),
        ("a\tb\na\t\n", "'p.tsv' has an empty target in line 2: expected text; take the line out"),
        ("a\tb\n\n\na\tb\n", "'p.tsv' is empty in line 2: expected text; take the empty lines out"),
        (b"a\tb\n\xff\xfe\t\n", "'p.tsv' is not text in UTF-8 in line 2: save it as UTF-8"),
        (
            "a\tb\nabcdefg\tb\n",
            "'p.tsv' has a source of 7 symbols in line 2: expected at most 6; cut it, or train with a greater longest",
        ),
        (
            "a\tbcdefgh\n",
            "'p.tsv' has a target of 7 symbols in line 1: expected at most 6; cut it, or train with a greater longest",
        ),
        ("a\tb\n" + 50 * "c", "'p.tsv' has more than 40 bytes in line 2: expected lines of text"),
    ],
)
def test_a_bad_file_gets_one_sentence(text, expected, monkeypatch):
    monkeypatch.setattr(seq2seq_files, "LINE", 40)
    assert message(ValueError, TASK.read, [write(text)], replace(SMALL, longest=6)) == expected


def test_no_such_file():
    assert message(ValueError, TASK.read, [], SMALL) == (
        "There are no files: expected at least one, with a source, a tab and a target in each line"
    )
    expected = "There is no file 'none.tsv': give the path of a text file"
    assert message(FileNotFoundError, TASK.read, [Path("none.tsv")], SMALL) == expected
    model = translator()
    assert message(FileNotFoundError, model.predict, [Path("none.tsv")]) == expected
    assert message(FileNotFoundError, model.look, Path("none.tsv")) == expected


@pytest.mark.parametrize("text", ["ab\tc d\né\t \n", "\ufeffab\tc d\r\né\t \r\n\r\n\n", "ab\tc d\né\t "])
def test_a_good_file(text):
    pairs = TASK.read([write(text), write("x\ty\n", "q.tsv")], SMALL)
    assert pairs.texts == [("ab", "c d"), ("é", " "), ("x", "y")]
    for side, texts in zip((pairs.source, pairs.target), zip(*pairs.texts, strict=True), strict=True):
        ids, lengths = side.ids.take(torch.arange(3))
        read = ["".join(side.symbols[k] for k in ids[:n, b]) for b, n in enumerate(lengths)]
        assert read == list(texts)


def test_words_are_cut_at_white_space():
    pairs = TASK.read([write(" to  be\tor\u3000not \n")], replace(SMALL, tokens="words"))
    assert pairs.source.symbols == ["to", "be"] and pairs.target.symbols == ["or", "not"]
    assert message(ValueError, TASK.read, [write("  \tb\n")], replace(SMALL, tokens="words")) == (
        "'p.tsv' has an empty source in line 1: expected text; take the line out"
    )


def test_no_text_is_a_special_symbol():
    """Whatever a text says, its symbols have numbers of their own, and the model's text has nothing else."""
    specials = ["<pad>", "<bos>", "<eos>", "<unk>", "0", "2", "\x00"]
    pairs = [(" ".join([word, "a"]), word) for word in specials for _ in range(9)]
    job = job_of(pairs, tokens="words", rare=1, test=1, validation=1)
    ids = job.source.flat.tolist() + job.target.flat.tolist()
    assert min(number for number in ids if number != UNKNOWN) > UNKNOWN
    assert ids.count(UNKNOWN) <= 2 * 2 * 9  # of the words that are only held out
    model = job.model
    with torch.no_grad():
        model.output.bias[UNKNOWN - SAID] = 100  # the unknown one is by far the likeliest, and never said
    said, chance = model.say(job.source.part(torch.arange(8)), 1)
    assert all(number > UNKNOWN for row in said for number in row) and all(one < -50 for one in chance)


# Parts


def test_all_pairs_of_a_source_are_in_one_part():
    pairs = [(word, target) for word, target in reversals(40) for target in (target, target, target + "X")]
    job = job_of(pairs)
    parts = [{pairs[k][0] for k in part.tolist()} for part in job.parts]
    assert [len(part) for part in parts] == [26, 6, 8]  # of 40: a fifth, a fifth of the rest
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert sorted(torch.cat(job.parts).tolist()) == list(range(len(pairs)))
    assert torch.equal(job_of(pairs, hidden=4).parts.test, job.parts.test)  # of the seed alone
    assert not torch.equal(job_of(pairs, seed=1).parts.test, job.parts.test)


def test_sources_that_are_cut_alike_are_one():
    job = job_of(
        [("a  b", "1"), (" a b", "2"), ("b a", "1"), ("c a", "1")], tokens="words", rare=1, test=1, validation=1
    )
    assert any({0, 1} <= set(part.tolist()) for part in job.parts)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"test": 58},
            "'p.tsv' has 60 different sources, which leaves 1 to train on after 1 for validation and 58 for the test",
        ),
        (
            {"test": 59, "validation": 5},
            "'p.tsv' has 60 different sources, which leaves 0 to train on after 5 for validation and 59 for the test: "
            "give more pairs, or make test or validation smaller",
        ),
        ({"test": 1.5}, "test is 1.5: expected a share such as 0.2, or a number of sources such as 60"),
    ],
)
def test_too_little_data(options, expected):
    if options == {"test": 58}:
        assert len(job_of(**options).parts.train) == 1  # one is enough
    else:
        assert message(ValueError, job_of, **options) == expected


def test_nothing_is_known_of_what_is_held_out():
    """Other targets of the test part change nothing; those of the validation part only the scores."""
    pairs = reversals()
    plain = job_of(pairs)
    curves, jobs = [], []
    for part in (None, plain.parts.test, plain.parts.validation):
        held = set() if part is None else set(part.tolist())
        job = job_of([(a, "ZZZZZZZZZ" if k in held else b) for k, (a, b) in enumerate(pairs)])
        outcome = loop.train(job)
        curves.append(outcome.curve)
        jobs.append(job)
    assert jobs[0].model.about == jobs[1].model.about == jobs[2].model.about == plain.model.about
    assert curves[0] == curves[1]
    for a, b in zip(jobs[0].model.parameters(), jobs[1].model.parameters(), strict=True):
        assert torch.equal(a, b)
    losses, scores = (
        [[epoch[name] for epoch in curve] for curve in curves] for name in ("training loss", "cross-entropy")
    )
    assert losses[0] == losses[2] and scores[0] != scores[2]


def test_only_the_training_part_is_trained_on():
    job = job_of()
    rows = [batch for batch, _ in job.batches.walk(0)]
    seen = sorted("".join(map(chr, column[column > 0].tolist())) for batch in rows for column in batch.source.T)
    ids, _ = job.source.take(job.parts.train)
    assert seen == sorted("".join(map(chr, column[column > 0].tolist())) for column in ids.T)


def test_symbols_and_lengths_are_those_of_the_training_part():
    job = job_of([("ab" * (k % 3 + 1) + str(k), "x" * (k % 3 + 2)) for k in range(30)], validation=5, test=5)
    train = [job.data.texts[k] for k in job.parts.train.tolist()]
    facts = job.model.about
    assert set(facts.source) == set("".join(source for source, _ in train)) and facts.target == ("x",)
    limits = job.model.limits(torch.tensor([len(source) for source, _ in train])).tolist()
    room = [limit - len(target) - 1 for limit, (_, target) in zip(limits, train, strict=True)]
    assert min(room) >= 0 and min(room) <= 1  # none is cut, and for one it is just enough


def test_rare_words_are_unknown():
    pairs = [("a b", "x y")] * 3 + [("a c", "x z")] * 2 + [("b a d", "y w")] + [(f"a {k}", "x") for k in (1, 2)]
    options = {"tokens": "words", "test": 1, "validation": 1}
    for options, expected in (({"rare": 2}, {"a", "b", "c"}), ({"rare": 3}, {"a", "b"}), ({"vocabulary": 1}, {"a"})):
        config = replace(SMALL, tokens="words", **options)
        every = TASK.read([write(pairs)], config)
        assert set(Facts.learn(every, torch.arange(len(pairs)), config).source) == expected
    with pytest.raises(
        ValueError, match=r"^No word is there 9 times on each side of the training part, so all would be"
    ):
        job_of(pairs, tokens="words", rare=9, test=1, validation=1)


# The model


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_gets_no_attention(attention):
    model = translator(attention=attention)
    batch = Batch(
        *sources(model, "abcab", "b"), torch.tensor([[BEGIN, BEGIN], [5, 6]]), torch.tensor([[5, 6], [END, END]])
    )
    with torch.no_grad():
        _, weights = model(batch)
    assert weights.shape == (2, 2, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2))
    assert (weights[:, 1, 1:] == 0).all() and (weights[:, 1, 0] == 1).all() and (weights[:, 0] > 0).all()


@pytest.mark.parametrize("recurrent", [{}, {"bidirectional": False}, {"proj_size": 3}])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_against_a_loop_written_from_the_papers(attention, cell, recurrent):
    if cell == "gru" and "proj_size" in recurrent:
        return
    model = translator(attention=attention, cell=cell, recurrent=recurrent)
    source, target = "cab", [5, 4, 6]
    w = dict(model.named_parameters())

    def linear(name, x):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0)

    h, final = model.encoder(w["embed_source.weight"][[model.known[0][c] for c in source]][:, None])
    h = h[:, 0]
    finals = final if isinstance(final, tuple) else (final,)
    state = [linear(f"bridge.{name}_l0", part[:, 0].flatten()) for name, part in zip("hc", finals, strict=False)]
    state[0] = state[0].tanh()
    loss = 0.0
    for before, wanted in zip([BEGIN, *target], [*target, END], strict=True):
        x = w["embed_target.weight"][before]
        if attention == "additive":
            inner = w["attention.query.weight"] @ state[0] + linear("attention.memory", h)
            context = (torch.tanh(inner) @ w["attention.value.weight"][0]).softmax(0) @ h
            x = torch.cat([x, context])
        given = [part[None, None] for part in state]
        y, final = model.decoder(x[None, None], given[0] if cell == "gru" else tuple(given))
        y = y[0, 0]
        state = [part[0, 0] for part in (final if isinstance(final, tuple) else (final,))]
        if attention == "multiplicative":
            context = (h @ w["attention.weight.weight"].T @ y).softmax(0) @ h
        r = torch.tanh(linear("readout", torch.cat([context, y])))
        loss = loss - linear("output", r).log_softmax(0)[wanted - SAID]
    batch = Batch.of(Ids.of([[model.known[0][c] for c in source]]), Ids.of([target]), torch.tensor([0]))
    costs, _, there = model.costs(batch)
    assert there.all() and len(costs) == 4
    torch.testing.assert_close(costs.sum(), loss, rtol=1e-5, atol=1e-5)
    for name, ours, theirs in zip(
        w, *(torch.autograd.grad(one, list(w.values())) for one in (costs.sum(), loss)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_pair_costs_the_same_in_any_batch(attention):
    job = job_of(attention=attention)
    every = torch.arange(12)
    together, _, there = job.model.costs(Batch.of(job.source, job.target, every))
    table = torch.zeros(there.shape)
    table[there] = together.detach()
    for k in every:
        alone, _, _ = job.model.costs(Batch.of(job.source, job.target, k[None]))
        torch.testing.assert_close(table[: len(alone), k], alone.detach(), rtol=1e-5, atol=1e-6)
        assert (table[len(alone) :, k] == 0).all()


def test_one_sequence_or_step_by_step():
    """With multiplicative attention the decoder's run as one sequence is its run one step at a time."""
    model = translator(layers=2)
    batch = Batch.of(Ids.of([[4, 5, 6], [5]]), Ids.of([[4, 4], [5, 6]]), torch.arange(2))
    with torch.no_grad():
        whole, looks = model(batch)
        memory, state = model.encode(batch.source, batch.lengths)
        for t, before in enumerate(batch.before):
            r, weights, state = model.step(before[:, None], state, memory)
            torch.testing.assert_close(r[:, 0], whole[t])
            torch.testing.assert_close(weights[:, 0], looks[t])


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_without_teacher_forcing_the_model_sees_what_it_says(attention):
    model = translator(attention=attention, limit=6)
    source, lengths = sources(model, "abc", "ca", "b")
    batch = Batch(source, lengths, torch.full((4, 3), 5), torch.full((4, 3), 5))
    batch.before[0] = BEGIN
    with torch.no_grad():
        free, _ = model(batch, forcing=0.0)
        own = model.likely(free).argmax(-1) + SAID
        told, _ = model(batch._replace(before=torch.cat([batch.before[:1], own[:-1]])))
        torch.testing.assert_close(free, told)
        assert not torch.equal(model(batch)[0], free)
        torch.manual_seed(0)
        some = [model(batch, forcing=0.5)[0] for _ in range(8)]
    assert any(not torch.equal(one, some[0]) for one in some)


def test_label_smoothing():
    job = job_of()
    batch = Batch.of(job.source, job.target, torch.arange(5))
    odds = job.model.output(job.model(batch)[0]).log_softmax(-1)
    there = batch.wanted != PAD
    right = odds[there].gather(1, batch.wanted[there][:, None] - SAID)[:, 0]
    expected = -(0.9 * right + 0.1 * odds[there].mean(-1))
    total, count = job_of(label_smoothing=0.1).loss(batch)
    assert count == int(there.sum()) == sum(len(job.data.texts[k][1]) + 1 for k in range(5))
    torch.testing.assert_close(total, expected.sum())


def test_teacher_forcing_reaches_the_loss():
    told, free = (job_of(teacher_forcing=share) for share in (1.0, 0.0))
    batch = Batch.of(told.source, told.target, torch.arange(9))
    for job, share in ((told, 1.0), (free, 0.0)):
        assert torch.equal(job.loss(batch)[0], job.model.costs(batch, share)[0].sum())
    assert not torch.equal(told.loss(batch)[0], free.loss(batch)[0])


SOME = [
    {},
    {"cell": "gru", "layers": 2, "dropout": 0.3},
    {"cell": "rnn", "recurrent": {"nonlinearity": "relu"}},
    {"layers": 2, "recurrent": {"peephole": "dense", "residual": True, "zoneout_h": 0.1, "zoneout_c": 0.1}},
    {"recurrent": {"proj_size": 3, "nonrecurrent_proj_size": 2, "proj_clip": 1.0, "learned_state": True}},
    {
        "recurrent": {
            "layer_norm": True,
            "coupled": "f=1-i",
            "recurrent_dropout": 0.2,
            "recurrent_dropout_on": "candidate",
        }
    },
    {"recurrent": {"bidirectional": False, "bias": False, "cell_clip": 3.0}},
]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("options", SOME, ids=str)
def test_the_loss_reaches_every_parameter(options, attention):
    job = job_of(attention=attention, **options)
    job.model.train()
    job.loss(Batch.of(job.source, job.target, torch.arange(8)))[0].backward()
    for name, parameter in job.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_every_recurrent_option_reaches_both_networks():
    values = {"forget_bias": 2.0, "recurrent_dropout_on": "candidate", "activations": ("hard_sigmoid", "tanh", "relu")}
    values |= {"peephole": "diagonal", "coupled": "i=1-f", "proj_size": 3, "nonrecurrent_proj_size": 2}
    for name, known in RECURRENT.items():
        if name in ("nonlinearity", "reset"):
            continue  # of other cells
        value = values.get(name, not known.default if isinstance(known.default, bool) else 0.25)
        needed = {"proj_size": 3} if name in ("nonrecurrent_proj_size", "proj_bias", "proj_clip") else {}
        model = job_of(recurrent=needed | {name: value}).model
        for layers in (model.encoder, model.decoder):
            ours = (
                name in ("bidirectional", "learned_state") and layers is model.decoder
            )  # it runs one way from a state
            assert getattr(layers.spec, name) == (False if ours else value), name
    assert job_of().model.encoder.spec.bidirectional and not job_of().model.decoder.spec.bidirectional
    assert not job_of(recurrent={"bidirectional": False}).model.encoder.spec.bidirectional
    for cell, options in (("gru", {"reset": "before"}), ("rnn", {"nonlinearity": "relu"})):
        model = job_of(cell=cell, recurrent=options).model
        assert (
            options.items()
            <= {**dict(model.encoder.spec.options)}.items() & {**dict(model.decoder.spec.options)}.items()
        )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"attention": "dot"}, "attention is 'dot': expected one of multiplicative, additive"),
        ({"teacher_forcing": 1.5}, "teacher_forcing is 1.5: expected at least 0 and at most 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0: expected at least 0 and below 1"),
        (
            {"attention": "additive", "recurrent": {"recurrent_dropout": 0.2}},
            "recurrent_dropout is one mask for a whole sequence, but with additive attention the decoder runs one step "
            "at a time: leave it out, or use multiplicative attention and teacher_forcing 1",
        ),
        (
            {"teacher_forcing": 0.5, "recurrent": {"weight_dropout": 0.2}},
            "weight_dropout is one mask for a whole sequence, but with teacher_forcing 0.5 the decoder runs one step "
            "at a time: leave it out, or use multiplicative attention and teacher_forcing 1",
        ),
    ],
)
def test_a_bad_option_gets_one_sentence(options, expected):
    assert message(ValueError, replace, SMALL, **options) == expected


# What it says


@pytest.mark.parametrize("options", [{}, {"attention": "additive"}, {"cell": "gru", "layers": 2}])
def test_a_beam_of_one_takes_the_likeliest_symbol_at_each_step(options):
    sizes = set()
    for seed, bias in itertools.product(range(4), (-1, 0, 1, 2)):
        model = translator(seed, limit=6, **options)
        with torch.no_grad():
            model.output.bias[END - SAID] = bias
        texts = ["abcab", "a", "cc", "bca"]
        found, chance, size = model.search(*sources(model, *texts), beam=1)
        for b, text in enumerate(texts):
            with torch.no_grad():
                memory, state = model.encode(*sources(model, text))
                said, total = [BEGIN], 0.0
                while said[-1] != END:
                    r, _, state = model.step(torch.tensor([[said[-1]]]), state, memory)
                    odds = model.output(r).log_softmax(-1)[0, 0]
                    own = odds.clone()
                    own[UNKNOWN - SAID] = -math.inf
                    said.append(END if len(said) == 6 else int(own.argmax()) + SAID)
                    total += float(odds[said[-1] - SAID])
            assert found[b][found[b] != PAD].tolist() == said[1:-1] and size[b] == len(said) - 1
            assert float(chance[b]) == pytest.approx(total, rel=1e-5)
        sizes |= set(size.tolist())
    assert len(sizes) > 3


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_wide_beam_finds_what_an_exhaustive_search_finds(attention):
    """All texts up to the limit are scored as in training, and the best one is that of the search."""
    seen = set()
    every = [list(t) for n in range(5) for t in itertools.product((UNKNOWN + 1, UNKNOWN + 2), repeat=n)]
    for seed in range(4):
        model = translator(seed, "xy", limit=5, attention=attention)
        texts = ["ab", "c", "bcaab"]
        found = {alpha: model.search(*sources(model, *texts), beam=40, alpha=alpha) for alpha in (0.0, 0.6, 1.0)}
        for b, text in enumerate(texts):
            source = [[model.known[0][c] for c in text]] * len(every)
            batch = Batch.of(Ids.of(source), Ids.of(every), torch.arange(len(every)))
            with torch.no_grad():
                costs, _, there = model.costs(batch)
            total = -torch.zeros(there.shape).masked_scatter(there, costs).sum(0)
            for alpha, (ids, chance, size) in found.items():
                best = int((total / ((5 + there.sum(0)) / 6) ** alpha).argmax())
                assert ids[b][ids[b] != PAD].tolist() == every[best]
                assert float(chance[b]) == pytest.approx(float(total[best]), rel=1e-4)
                assert int(size[b]) == len(every[best]) + 1
                seen.add(tuple(every[best]))
    assert len(seen) > 3 and len({len(one) for one in seen}) > 2


def test_more_hypotheses_find_what_is_likelier():
    """Without a weight of length, what eight hypotheses find is nearly always at least as likely as what one finds."""
    better = worse = 0
    for seed in range(10):
        model = translator(seed, limit=6)
        given = sources(model, "abcab", "a", "cc", "bca", "ac", "cab")
        one, eight = (model.search(*given, beam=beam, alpha=0.0)[1] for beam in (1, 8))
        better += int((eight > one + 1e-4).sum())
        worse += int((eight < one - 1e-4).sum())
    assert better > 10 * worse and better > 3


def test_what_has_ended_does_not_go_on(monkeypatch):
    """Not even where a second end would cost nothing, and the greater length would count."""
    chances = iter([[0.5, 0.0, 0.3, 0.1, 0.1], *[[1.0, 0.0, 0.0, 0.0, 0.0]] * 9])
    monkeypatch.setattr(Translator, "likely", lambda *_: torch.tensor(next(chances)).log().expand(1, 3, 5).clone())
    model = translator()
    found, chance, size = model.search(*sources(model, "ab"), beam=3, alpha=1.0)
    assert (found == PAD).all() and size.tolist() == [1]
    torch.testing.assert_close(chance.exp(), torch.tensor([0.5]))


def test_the_search_is_over_when_nothing_can_become_better(monkeypatch):
    model = translator(limit=20)
    steps = []
    plain = Translator.step
    monkeypatch.setattr(Translator, "step", lambda self, *given: steps.append(1) or plain(self, *given))
    for bias, expected in ((50.0, 1), (-50.0, 20)):
        with torch.no_grad():
            model.output.bias[END - SAID] = bias
        steps.clear()
        found, _, size = model.search(*sources(model, "ab", "c"), beam=3)
        assert len(steps) == expected and size.tolist() == [expected, expected]
        assert ((found != PAD).sum(1) == expected - 1).all()


# Prediction


def test_pieces_do_not_change_what_is_said(monkeypatch):
    model = translator()
    texts = ["abc", "c", "bb", "ca", "abcabcabc", "b", "a"]
    write("\n".join(f"{text}\twhatever\tmore" for text in texts[:4]) + "\n", "a.tsv")
    write("\n".join(texts[4:]), "b.txt")
    frames = []
    for size in (1, 3, 512):
        monkeypatch.setattr(seq2seq, "PIECE", size)
        pieces = list(model.predict([Path("a.tsv"), Path("b.txt")]))
        assert [len(piece) for piece in pieces] == {1: [1] * 7, 3: [3, 3, 1], 512: [7]}[size]
        frames.append(pd.concat(pieces, ignore_index=True))
    assert frames[0]["source"].tolist() == texts
    for other in frames[1:]:
        pd.testing.assert_frame_equal(frames[0], other, rtol=1e-5)
    found, chance, size = model.search(*sources(model, *texts), beam=seq2seq.BEAM)
    assert frames[0]["target"].tolist() == [model.text(row.tolist()) for row in found]
    np.testing.assert_allclose(frames[0]["log_probability"], chance / size, rtol=1e-5)
    assert len(set(size.tolist())) > 1


def test_prediction_streams(monkeypatch):
    """What is before a bad line is said; so no more than a piece is read ahead."""
    monkeypatch.setattr(seq2seq, "PIECE", 2)
    pieces = translator().predict([write("a\nb\nc\n?\n")])
    assert next(pieces)["source"].tolist() == ["a", "b"]
    assert message(ValueError, next, pieces) == (
        "'p.tsv' has '?' in line 4, which no source had in training: take it out, or train on text that has it"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "'p.tsv' is empty: expected a source in each line"),
        ("ab\n\na\n", "'p.tsv' is empty in line 2: expected text; take the empty lines out"),
        ("ab\n\tx\n", "'p.tsv' has an empty source in line 2: expected text; take the line out"),
        (b"ab\n\xff\n", "'p.tsv' is not text in UTF-8 in line 2: save it as UTF-8"),
        (
            "a" * 21,
            "'p.tsv' has a source of 21 symbols in line 1: expected at most 20; cut it, or train with a greater "
            "longest",
        ),
    ],
)
def test_what_cannot_be_predicted_gets_one_sentence(text, expected):
    assert message(ValueError, list, translator().predict([write(text)])) == expected


def test_bad_options_of_prediction():
    model, path = translator(), write("a")
    assert message(ValueError, model.predict, [path], beam=0) == "beam is 0: expected a whole number from 1 to 256"
    assert message(ValueError, model.predict, [path], alpha=math.nan) == "alpha is nan: expected a number from 0 to 10"


def test_an_unknown_word_is_no_error():
    job = job_of(
        [("a b", "x y"), ("b a", "y x"), ("a a", "x x"), ("b b", "y y")] * 2, tokens="words", test=1, validation=1
    )
    said = pd.concat(job.model.predict([write("a never\nb  b\n")]))
    assert said["source"].tolist() == ["a never", "b  b"]
    job.model.eval()
    assert job.model.evaluate(job.model.read([write("a never\tx seen\n")])).metrics["unknown"] == {
        "source": 1,
        "target": 1,
    }


def test_a_file_with_the_truth_is_read_as_for_prediction():
    job = job_of()
    assert message(ValueError, job.model.read, [write("a?\tA\n")]) == (
        "'p.tsv' has '?' in line 1, which no source had in training: take it out, or train on text that has it"
    )
    results = job.model.evaluate(job.model.read([write("a\tA?!\n")]))
    assert results.metrics["unknown"] == {"source": 0, "target": 2} and results.metrics["pairs"] == {"test": 1}


def test_a_trace_of_the_first_line():
    model = translator()
    trace, beside = model.look(write("cab\tx\n?\n"))
    assert trace.spec == model.encoder.spec and trace["c_l0_reverse"].shape == (3, 1, 8) and beside == ["c", "a", "b"]
    ids, lengths = sources(model, "cab")
    expected, _ = model.encoder(model.embed_source(ids), lengths=lengths)
    np.testing.assert_array_equal(trace.output, expected.detach().numpy())
    assert message(ValueError, model.look, write("")) == "'p.tsv' is empty: expected a source in each line"


# Tokenizers


def tokenizer(path: str = "t.json") -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>"],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    own.train_from_iterator([text for pair in reversals() for text in pair], trainer)
    own.enable_truncation(2)
    own.enable_padding(length=9)
    own.save(path)
    return Path(path)


def test_tokens_of_a_tokenizer():
    path = tokenizer()
    job = job_of([(f"{a} {a}", f"{b} é") for a, b in reversals()], tokens=str(path), epochs=1, rare=1)
    loop.train(job)
    path.unlink()
    job.model.save("m.safetensors")
    model = Translator.load("m.safetensors")  # the tokenizer is inside
    symbols = model.symbols.split("abcd abcd")
    assert model.symbols.join(symbols) == "abcd abcd" and 2 < len(symbols) < 9  # neither cut short nor filled
    numbers = job.target.part(torch.tensor([0])).flat.tolist()
    assert model.text(numbers) == f"{reversals()[0][1]} é"
    first, second = (pd.concat(one.predict([write("ab ab\nd <s>\n")])) for one in (job.model, model))
    pd.testing.assert_frame_equal(first, second)
    assert "character errors" not in model.evaluate(model.read([write("ab ab\tBA é\n")])).metrics["test"]["greedy"]


def test_a_run_is_not_resumed_with_another_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"ab": 0, "ba": 1, "?": 2}, unk_token="?")).save("t.json")
    given = replace(SMALL, tokens="t.json", epochs=1), [write("ab\tba\n" * 3 + "ba\tab\n" * 3 + "?\t?\n" * 3)], "run"
    runs.fit(*given)
    Path("t.json").write_text(Path("t.json").read_text() + "\n")
    assert "is of a run on other data" in message(ValueError, runs.fit, *given, resume=True)


def test_what_a_tokenizer_cannot_cut():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="none")).save("t.json")
    found = message(ValueError, TASK.read, [write("a\ta\nb\ta\n")], replace(SMALL, tokens="t.json"))
    assert found.startswith("'p.tsv' has a source in line 2 that the tokenizer cannot cut (")
    assert found.endswith("): take the line out, or give a tokenizer with an unknown token")


def test_what_is_no_tokenizer(monkeypatch):
    expected = "There is no file 'none.json': tokens is 'characters', 'words', or the path of a tokenizers JSON file"
    assert message(FileNotFoundError, job_of, tokens="none.json") == expected
    Path("t.json").write_text("{}")
    found = message(ValueError, job_of, tokens="t.json")
    assert (
        found.startswith("'t.json' cannot be read as tokens: this is not the JSON of a tokenizer (")
        and "\n" not in found
    )
    assert found.endswith("); give a tokenizers JSON file")
    monkeypatch.setattr(seq2seq_files, "TOKENIZER", 1)
    assert message(ValueError, job_of, tokens="t.json") == (
        "'t.json' has 2 bytes: expected a tokenizers JSON file of at most 1"
    )


# The model file


@pytest.mark.parametrize(
    "options", [{}, {"attention": "additive", "cell": "gru", "recurrent": {"bidirectional": False}}]
)
def test_file_round_trip(options):
    job = job_of(**options)
    loop.train(job)
    job.model.save("m.safetensors")
    again = train.load("m.safetensors")
    assert isinstance(again, Translator) and again.about == job.model.about and again.spec == job.model.spec
    found = convert.read("m.safetensors")  # its layers, as other formats may have them
    assert {name: layers.spec for name, layers in found.items()} == {
        name: getattr(job.model, name).spec for name in ("encoder", "decoder")
    }
    weight = job.model.decoder.weight_hh_l0.detach().numpy()
    np.testing.assert_array_equal(found["decoder"].arrays["weight_hh_l0"], weight)
    assert message(ValueError, openlstm.load, "m.safetensors").startswith("'m.safetensors' is a trained model, not lay")
    path = write("".join(f"{a}\n" for a, _ in reversals(8)))
    pd.testing.assert_frame_equal(*(pd.concat(model.predict([path])) for model in (job.model, again)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tokens": 3}, "its tokens are no text of at most"),
        ({"tokens": "{}"}, "this is not the JSON of a tokenizer"),
        ({"source": []}, "the symbols of its source are no list of 1 to"),
        ({"source": ["a", 3]}, "the symbols of its source are not all different texts"),
        ({"target": ["x", "x", "y"]}, "the symbols of its target are not all different texts"),
        ({"target": ["x", "\ud800", "y"]}, "surrogates not allowed"),
        ({"attention": "none"}, "its attention is 'none', expected one of additive, multiplicative"),
        ({"attention": []}, "unhashable"),
        ({"ratio": math.nan}, "its ratio is nan, expected a number of at least 0"),
        ({"offset": -1}, "its offset is -1, expected a number of at least 0"),
        ({"longest": 10**9}, "its longest is 1000000000, expected 1 to 10,000"),
        ({"more": 1}, "unexpected keyword argument 'more'"),
    ],
)
def test_a_hostile_file(change, expected):
    translator().save("m.safetensors")
    tensors, metadata = file.read("m.safetensors", "torch")
    file.write("m.safetensors", tensors, metadata | {"task": json.dumps(json.loads(metadata["task"]) | change)})
    found = message(ValueError, Translator.load, "m.safetensors")
    assert found.startswith("'m.safetensors' holds a task that this openlstm cannot use: ") and expected in found


def test_a_file_of_other_layers():
    translator().save("m.safetensors")
    tensors, metadata = file.read("m.safetensors", "torch")
    file.write("m.safetensors", tensors, metadata | {"spec": str(Spec.of("lstm", 5, [8, 4], bidirectional=True))})
    assert "expected layers of one size that begin with time" in message(ValueError, Translator.load, "m.safetensors")
    file.write("m.safetensors", tensors, metadata | {"spec": str(Spec.of("lstm", 5, 9, bidirectional=True))})
    assert message(ValueError, Translator.load, "m.safetensors").startswith("'m.safetensors' does not fit its task: ")


# Training


@pytest.mark.parametrize("options", [{}, {"attention": "additive"}, {"label_smoothing": 0.1}])
def test_two_processes_do_what_one_does(options):
    shares = [job_of(share=Share(rank, 2), batch=4, **options) for rank in (0, 1)]
    whole = job_of(batch=8, **options)
    for job in (*shares, whole):
        job.model.train()
    for (one, counted), *halves in zip(whole.batches.walk(0), *(job.batches.walk(0) for job in shares), strict=True):
        total, count = whole.loss(one)
        sums = [job.loss(half) for job, (half, counts) in zip(shares, halves, strict=True) if counts]
        assert counted and count == sum(n for _, n in sums)
        torch.testing.assert_close(total, sum(part for part, _ in sums))
        total.backward()
        for part, _ in sums:
            part.backward()
    for parameter, *others in zip(whole.model.parameters(), *(job.model.parameters() for job in shares), strict=True):
        torch.testing.assert_close(parameter.grad, sum(other.grad for other in others), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        scores = [job.score() for job in (*shares, whole)]
    for name, (total, count) in scores[2].items():
        assert count == scores[0][name][1] + scores[1][name][1] > 0
        assert total == pytest.approx(scores[0][name][0] + scores[1][name][0], rel=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("options", [{}, {"attention": "additive", "teacher_forcing": 0.5}])
def test_killed_and_resumed_gives_the_same_bits(options, monkeypatch):
    monkeypatch.setattr(loop, "EVERY", 0)
    options = {"dropout": 0.3, "epochs": 4, "patience": 9, "recurrent": {"zoneout_h": 0.1}} | options
    straight = job_of(**options)
    expected = loop.train(straight)
    calls = []

    def keep() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Killed

    Path("run").mkdir()
    with pytest.raises(Killed):
        loop.train(job_of(**options), folder=Path("run"), keep=keep)
    resumed = job_of(**options)
    outcome = loop.train(resumed, folder=Path("run"), resume=True)
    assert outcome.resumed == 2 and outcome.curve == expected.curve
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_one_seed_one_model():
    state = torch.random.get_rng_state()
    first, again, other = (job_of(seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["output.weight"], other["output.weight"])
    for name in ("encoder.weight_hh_l0_reverse", "decoder.weight_hh_l0"):
        for gate in first[name].split(SMALL.hidden):
            torch.testing.assert_close(gate @ gate.T, torch.eye(SMALL.hidden), atol=1e-5, rtol=0)
    assert not first["embed_source.weight"][UNKNOWN].any()
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's numbers are not disturbed


@pytest.mark.parametrize(
    ("attention", "forcing"), [("multiplicative", 1.0), ("additive", 1.0), ("multiplicative", 0.8)]
)
def test_it_learns(attention, forcing):
    """Most words that it has never seen come out backwards and in capitals."""
    options = {"hidden": 32, "embedding": 16, "epochs": 14 if forcing == 1 else 18, "learning_rate": 0.01}
    job = job_of(reversals(700), attention=attention, teacher_forcing=forcing, batch=32, **options)
    loop.train(job)
    metrics = job.results().metrics
    assert metrics["pairs"] == {"train": 448, "validation": 112, "test": 140}
    assert metrics["test"]["greedy"]["exact"] > 80 > metrics["test"]["copy of the source"]["exact"]
    assert metrics["perplexity"] < 1.3


# Results


def test_the_table_of_metrics(monkeypatch):
    job = job_of()
    truths = {k: job.target.part(job.parts.test[k][None]).flat.tolist() for k in range(len(job.parts.test))}
    right = [truths[k] for k in truths]
    wrong = [[*row, row[-1]] if k == 0 else row for k, row in truths.items()]  # one letter too many
    monkeypatch.setattr(Translator, "say", lambda self, source, beam, alpha=0: (right if beam == 1 else wrong, []))
    results = job.results()
    table, metrics = results.parts[0], results.metrics["test"]
    assert metrics["greedy"] == {
        "exact": 100,
        "BLEU": pytest.approx(100),
        "chrF": pytest.approx(100),
        "character errors": 0,
    }
    letters = sum(len(row) for row in right)
    assert metrics["beam of 4"]["exact"] == pytest.approx(100 * (1 - 1 / len(right)))
    assert metrics["beam of 4"]["character errors"] == pytest.approx(100 / letters, rel=1e-5)
    assert metrics["copy of the source"]["exact"] == 0
    assert table.columns == ("", "exact", "BLEU", "chrF", "character errors", "perplexity")
    assert [row[0] for row in table.rows] == ["greedy", "beam of 4", "copy of the source"]
    assert table.rows[0][1] == "100.00" and all(len(row) == len(table.columns) for row in table.rows)
    costs, _, _ = job.model.costs(Batch.of(job.source, job.target, job.parts.test))
    assert results.metrics["perplexity"] == pytest.approx(costs.mean().exp().item(), rel=1e-5)
    json.dumps(results.metrics, allow_nan=False)


def test_worst_cases_come_first():
    job = job_of()
    table = job.results().parts[1]
    assert table.columns == ("source", "truth", "model", "log p") and len(table.rows) == seq2seq.WORST
    every = []
    for k in job.parts.test:
        costs, _, _ = job.model.costs(Batch.of(job.source, job.target, k[None]))
        every.append((-costs.mean().item(), *job.data.texts[int(k)]))
    for row, (cost, source, truth) in zip(table.rows, sorted(every), strict=False):
        assert row[:2] == (source, truth) and float(row[3].replace("−", "-")) == pytest.approx(cost, abs=6e-4)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_picture_of_attention(attention):
    """It has the weights of the model's own targets, and text that looks like mathematics is text."""
    pairs = [(f"{a} $\\x$", b) for a, b in reversals()]
    job = job_of(pairs, attention=attention)
    results = job.results()
    picture, gates = results.parts[2:]
    axes = picture.figure.axes[:-1]
    assert len(axes) == 4
    picture.figure.savefig("attention.png")
    gates.figure.savefig("gates.png")
    source = job.source.part(job.parts.test)
    said, _ = job.model.say(source, 1)
    first = {len(job.data.texts[n][0]): k for k, n in reversed(list(enumerate(job.parts.test.tolist())))}
    for k, one in zip(sorted(first.values()), axes, strict=False):
        batch = Batch.of(source, Ids.of(said), torch.tensor([k]))
        expected = job.model(batch)[1][:, 0].detach().numpy()
        np.testing.assert_allclose(one.images[0].get_array(), expected, rtol=1e-5, atol=1e-7)
        text = job.data.texts[int(job.parts.test[k])][0].replace(" ", "\u2423")
        assert [label.get_text() for label in one.get_xticklabels()] == list(text)
        labels = [label.get_text() for label in one.get_yticklabels()]
        assert "".join(labels) == job.model.text(said[k]).replace(" ", "\u2423") + "end"
    last = next(a for a in gates.figure.axes if [t.get_text() for t in a.get_xticklabels()][-3:] == ["\\", "x", "$"])
    assert len(last.get_xticks()) == len(job.data.texts[int(job.parts.test[0])][0])


def test_words_that_look_like_mathematics_are_drawn_as_they_are():
    pairs = [(f"$\\none$ {a}", f"{b} $\\none$") for a, b in reversals()]
    for part in job_of(pairs, tokens="words", rare=1).results().parts[2:]:
        part.figure.savefig("words.png")  # what is no mathematics would be an error


def test_sequences_too_long_to_read_are_drawn_where_there_are_no_others():
    pairs = [(a * 12, b) for a, b in reversals() if len(a) == 5]
    results = job_of(pairs, longest=100).results()
    assert len(results.parts[2].figure.axes) == 2


def test_symbols_are_cut_as_the_docstring_says():
    assert Symbols("words").join(["to", "be"]) == "to be" and Symbols("characters").join(["t", " "]) == "t "
