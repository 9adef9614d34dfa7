"""Sequences to sequences: an encoder reads a source, and a decoder with attention says the target symbol by symbol."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .. import nn as recurrent
from ..models import trace
from ..spec import Spec
from ..words import counted
from .config import Seq2SeqConfig
from .seq2seq_files import (
    BEGIN,
    END,
    PAD,
    TOKENIZER,
    UNKNOWN,
    Batch,
    Column,
    Ids,
    Pairs,
    Symbols,
    checked,
    lines,
    read,
    read_pairs,
    split,
)
from .seq2seq_report import attention_figure, label, metrics_table, scores_of, worst_table
from .task import Job, Picture, Results, Share, Shuffled, Task, Trained, gates, orthogonal

if TYPE_CHECKING:
    import pandas as pd

    from ..tracing import Trace

SAID = 2  # what the output layer numbers 0: it has no padding and no beginning, which nobody can say
KNOWN = 2**20  # symbols that a model file may have
PIECE = 512  # lines that are predicted together
ROWS = 256  # sequences, or hypotheses, that are computed together outside training
BEAM, ALPHA = 4, 0.6  # hypotheses, and how much their length weighs
WORST = 12  # cases shown
WIDE = 40  # symbols of a picture

State = tuple[Tensor, ...]  # of all layers, (L, B, n) each


# The model


@dataclass(frozen=True)
class Facts:
    """What a model is beside its layers. Errors: ValueError, TypeError for what no training wrote."""

    tokens: str  # as Symbols takes it
    source: tuple[str, ...]  # known symbols: their numbers begin after UNKNOWN
    target: tuple[str, ...]
    attention: str
    ratio: float  # a target has at most ratio * the source's symbols + offset
    offset: float
    longest: int

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, str) or len(self.tokens) > TOKENIZER:
            raise ValueError(f"its tokens are no text of at most {TOKENIZER:,} characters")
        for name in ("source", "target"):
            known = getattr(self, name)
            if not isinstance(known, (list, tuple)) or not 1 <= len(known) <= KNOWN:
                raise ValueError(f"the symbols of its {name} are no list of 1 to {KNOWN:,}")
            if not all(isinstance(symbol, str) for symbol in known) or len(set(known)) != len(known):
                raise ValueError(f"the symbols of its {name} are not all different texts")
            "".join(known).encode()  # a lone half of a character could not be written; that is a ValueError
            object.__setattr__(self, name, tuple(known))
        if self.attention not in ATTENTION:
            raise ValueError(f"its attention is {self.attention!r}, expected one of {', '.join(ATTENTION)}")
        for name in ("ratio", "offset"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1e6:
                raise ValueError(f"its {name} is {value!r}, expected a number of at least 0")
        if not isinstance(self.longest, int) or not 1 <= self.longest <= 10_000:
            raise ValueError(f"its longest is {self.longest!r}, expected 1 to 10,000")

    @classmethod
    def learn(cls, pairs: Pairs, train: Tensor, config: Seq2SeqConfig) -> Facts:
        """From the training part alone. Errors: ValueError where it has no word often enough."""
        part = pairs.part(train)
        closed = Symbols(pairs.tokens).closed
        known = _known(part.source, closed, config), _known(part.target, closed, config)
        source, target = part.source.ids.lengths.double(), part.target.ids.lengths.double()
        ratio = float(target.sum() / source.sum())
        offset = float((target - ratio * source).max().clamp(min=0))
        return cls(pairs.tokens, *known, config.attention, ratio, offset, config.longest)


def _known(column: Column, closed: bool, config: Seq2SeqConfig) -> tuple[str, ...]:
    """The symbols that a model will know, the most frequent first; those as frequent in the order of their characters,
    so that nothing depends on what is outside the training part."""
    counts = torch.bincount(column.ids.flat, minlength=len(column.symbols)).tolist()
    least = 1 if closed else config.rare
    often = sorted((-count, symbol) for count, symbol in zip(counts, column.symbols, strict=True) if count >= least)
    if not often:
        raise ValueError(
            f"No word is there {counted(least, 'time')} on each side of the training part, so all would be unknown: "
            "make rare smaller, give more pairs, or take other tokens"
        )
    return tuple(symbol for _, symbol in often[: len(often) if closed else config.vocabulary])


class Additive(nn.Module):
    """Bahdanau, Cho, Bengio 2015, in appendix A.1.2: the score of memory h_j for the state before, s_(i-1), is
    v . tanh(W s_(i-1) + U h_j + b), where the paper has no b."""

    before = True  # the decoder's step: the context goes into it

    def __init__(self, query: int, memory: int) -> None:
        super().__init__()
        self.query, self.memory = nn.Linear(query, query, bias=False), nn.Linear(memory, query)
        self.value = nn.Linear(query, 1, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """What does not depend on the decoder: (B, S, M) to (B, S, Q)."""
        found: Tensor = self.memory(memory)
        return found

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, T, Q) and (B, S, Q) to (B, T, S)."""
        found: Tensor = self.value(torch.tanh(self.query(queries)[:, :, None] + keys[:, None]))
        return found.squeeze(-1)


class Multiplicative(nn.Module):
    """Luong, Pham, Manning 2015, section 3.1, `general`: the score of h_s for the decoder's output s_t, s_t . W h_s."""

    before = False

    def __init__(self, query: int, memory: int) -> None:
        super().__init__()
        self.weight = nn.Linear(memory, query, bias=False)

    def keys(self, memory: Tensor) -> Tensor:
        """What does not depend on the decoder: (B, S, M) to (B, S, Q)."""
        found: Tensor = self.weight(memory)
        return found

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, T, Q) and (B, S, Q) to (B, T, S)."""
        return queries @ keys.mT


ATTENTION: dict[str, type[Additive] | type[Multiplicative]] = {
    "additive": Additive,
    "multiplicative": Multiplicative,
}


class Memory(NamedTuple):
    """A source as the decoder sees it."""

    values: Tensor  # (B, S, M): what the encoder said at each symbol
    keys: Tensor  # (B, S, Q)
    there: Tensor  # (B, 1, S): false past the end of a source


class Translator(Trained):
    """An encoder and a decoder with attention.

    The encoder reads the source x_1 .. x_S, in both directions unless it was told otherwise:
        h_1 .. h_S = encoder(E x)
    The decoder's layers begin at tanh(V h + b), from the encoder's final h of the same layer, in both directions; other
    states (the memory c) begin at the same without tanh. With multiplicative attention (Luong et al. 2015, without the
    input feeding of section 3.3) it runs over the whole target at once, and looks at the source then:
        s_t = decoder(s_(t-1), E y_(t-1))
        a_ts = exp(s_t . W h_s) / sum over s of it                      eq. 7, with the score `general`
        c_t = sum over s of a_ts h_s                                    section 3.1, in words
        r_t = tanh(W_c [c_t; s_t])                                      eq. 5
        p(y_t) = softmax(W_s r_t)                                       eq. 6
    With additive attention (Bahdanau et al. 2015) it looks first, and goes step by step:
        a_ij = exp(v . tanh(W s_(i-1) + U h_j + b)) / sum over j of it  eq. 6 and appendix A.1.2, which has no b
        c_i = sum over j of a_ij h_j                                    eq. 5
        s_i = decoder(s_(i-1), [E y_(i-1); c_i])                        after eq. 4
        p(y_i) = softmax(W_s tanh(W_c [c_i; s_i]))                      eq. 4, where the paper has a maxout layer
    With several layers s_(i-1) is h of the last one.
    """

    kind = "seq2seq"
    About = Facts

    def __init__(self, spec: Spec, about: Facts, dropout: float = 0.0) -> None:
        super().__init__(spec, about, dropout)
        if spec.batch_first or len(set(spec.hidden_size)) > 1:
            raise ValueError(f"its layers are {spec}, expected layers of one size that begin with time")
        self.symbols = Symbols(about.tokens)
        self.known = [
            {symbol: UNKNOWN + 1 + k for k, symbol in enumerate(side)} for side in (about.source, about.target)
        ]
        kind = ATTENTION[about.attention]
        memory = spec.output_size()
        own = decoder_spec(spec, memory if kind.before else 0)
        states = own.state_sizes(own.walks[0])
        self.embed_source = nn.Embedding(UNKNOWN + 1 + len(about.source), spec.input_size)
        self.embed_target = nn.Embedding(UNKNOWN + 1 + len(about.target), spec.input_size)
        self.encoder, self.decoder = recurrent.of(spec), recurrent.of(own)
        self.bridge = nn.ModuleDict(
            {
                name + walk.suffix: nn.Linear(spec.directions * size, size)
                for walk in own.walks
                for name, size in states.items()
            }
        )
        self.attention = kind(states["h"] if kind.before else own.output_size(), memory)
        self.readout = nn.Linear(memory + own.output_size(), spec.hidden_size[-1])
        self.output = nn.Linear(spec.hidden_size[-1], UNKNOWN + 1 + len(about.target) - SAID)
        self.drop = nn.Dropout(dropout)

    @property
    def device(self) -> torch.device:
        """Where its numbers are."""
        return self.output.weight.device

    # One run.

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Memory, State]:
        """What the decoder looks at, and its first state, from sources (S, B) and their lengths (B,)."""
        values, final = self.encoder(self.drop(self.embed_source(source)), lengths=lengths)
        values = values.transpose(0, 1)
        there = torch.arange(len(source), device=lengths.device) < lengths[:, None]
        first = []
        for name, states in zip(self.spec.definition.states, _tuple(final), strict=True):  # (L * directions, B, n)
            layers = states.view(self.spec.num_layers, -1, *states.shape[1:]).transpose(1, 2).flatten(2)
            begun = torch.stack([self.bridge[f"{name}_l{k}"](layer) for k, layer in enumerate(layers)])
            first.append(begun.tanh() if name == "h" else begun)
        return Memory(values, self.attention.keys(values), there[:, None]), tuple(first)

    def look_at(self, memory: Memory, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The context (B, T, M) for queries (B, T, Q), and how much each symbol of a source weighs in it, (B, T, S)."""
        scores = self.attention.scores(queries, memory.keys)
        weights = scores.masked_fill(~memory.there, -math.inf).softmax(-1)
        return weights @ memory.values, weights

    def step(self, before: Tensor, state: State, memory: Memory) -> tuple[Tensor, Tensor, State]:
        """One step of K hypotheses for each of B sources.

        before: (B, K) the symbol before. state: of B * K sequences. Gives r (B, K, H), weights (B, K, S) and the state.
        """
        x = self.drop(self.embed_target(before))
        if self.attention.before:
            queries = state[0][-1].view(*before.shape, -1)
            context, weights = self.look_at(memory, queries)
            x = torch.cat([x, context], -1)
        y, final = self.decoder(x.flatten(0, 1)[None], _given(state))
        y = y.view(*before.shape, -1)
        if not self.attention.before:
            context, weights = self.look_at(memory, y)
        return self.read_out(context, y), weights, _tuple(final)

    def read_out(self, context: Tensor, y: Tensor) -> Tensor:
        """r, from which the output layer says how likely each symbol is."""
        r: Tensor = self.drop(torch.tanh(self.readout(torch.cat([context, y], -1))))
        return r

    def forward(self, batch: Batch, forcing: float = 1.0) -> tuple[Tensor, Tensor]:
        """r (T, B, H) and the weights (T, B, S) at each step of the targets.

        forcing: the share of steps that see the true symbol before; the others see the model's likeliest (Bengio et al.
        2015), through which no gradient goes.
        """
        memory, state = self.encode(batch.source, batch.lengths)
        if forcing == 1 and not self.attention.before:
            y, _ = self.decoder(self.drop(self.embed_target(batch.before)), _given(state))
            y = y.transpose(0, 1)
            context, weights = self.look_at(memory, y)
            return self.read_out(context, y).transpose(0, 1), weights.transpose(0, 1)
        steps: list[list[Tensor]] = []
        before = batch.before[0]
        for true in batch.before:
            if steps and forcing < 1:
                own = self.likely(steps[-1][0][:, 0]).argmax(-1) + SAID
                before = torch.where(torch.rand(len(true), device=true.device) < forcing, true, own)
            else:
                before = true
            *found, state = self.step(before[:, None], state, memory)
            steps.append(found)
        vectors, weights = (torch.cat(parts, 1).transpose(0, 1) for parts in zip(*steps, strict=True))
        return vectors, weights

    @torch.no_grad()
    def likely(self, vectors: Tensor) -> Tensor:
        """log p of each symbol, from number SAID on: (..., H) to (..., V). UNKNOWN is never said."""
        odds: Tensor = self.output(vectors).log_softmax(-1)
        odds[..., UNKNOWN - SAID] = -math.inf
        return odds

    def costs(self, batch: Batch, forcing: float = 1.0, smoothing: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """For each of M symbols that are to be said: what it costs, is it the likeliest; and where they stand, (T, B).

        Costs are negative logarithms of probabilities, smoothed as in Szegedy et al. 2016.
        """
        there = batch.wanted != PAD
        wanted = batch.wanted[there] - SAID
        odds = self.output(self(batch, forcing)[0][there])
        cost = cross_entropy(odds, wanted, reduction="none", label_smoothing=smoothing)
        return cost, odds.argmax(-1) == wanted, there

    # What it says.

    def limits(self, lengths: Tensor) -> Tensor:
        """How many symbols a target may have, with the end, (B,), for sources of these lengths."""
        most = (self.about.ratio * lengths.double() + self.about.offset).ceil()
        limits: Tensor = most.clamp(1, self.about.longest).long() + 1
        return limits

    @torch.no_grad()
    def search(
        self, source: Tensor, lengths: Tensor, beam: int = 1, alpha: float = ALPHA
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The target that the model finds best, for sources (S, B) of these lengths (B,).

        Of `beam` hypotheses for each source, the likeliest go on. One that ends is kept if log p / ((5 + n) / 6)^alpha
        is the greatest so far, where n is its number of symbols with the end (Wu et al. 2016, eq. 14, without what it
        adds for coverage). The search is over where none that is open could become better. With beam=1 it is the
        likeliest symbol at each step.
        Gives the symbols (B, T), PAD past the end, log p (B,) and n (B,).
        """
        memory, state = self.encode(source, lengths)
        limits = self.limits(lengths)
        count, most = len(lengths), int(limits.max())
        rows = torch.arange(count, device=source.device)[:, None]
        state = tuple(part.repeat_interleave(beam, 1) for part in state)
        scores = torch.full((count, beam), -math.inf, device=source.device)
        scores[:, 0] = 0
        before = source.new_full((count, beam), BEGIN)
        texts = source.new_full((count, beam, most), PAD)
        best = scores.new_full((count,), -math.inf)
        found, chance, size = texts[:, 0].clone(), best.clone(), limits.clone()
        for n in range(1, most + 1):
            vectors, _, state = self.step(before, state, memory)
            odds = self.likely(vectors)  # (B, K, V)
            last = odds[..., END - SAID].clone()
            odds.masked_fill_((limits <= n)[:, None, None], -math.inf)  # nothing but the end is left
            odds[..., END - SAID] = last
            scores, chosen = (scores[..., None] + odds).flatten(1).topk(beam)
            parents, before = chosen // odds.shape[-1], chosen % odds.shape[-1] + SAID
            kept = (rows * beam + parents).flatten()
            state = tuple(part[:, kept] for part in state)
            texts = texts[rows, parents]
            ended = before == END
            values, places = scores.div(((5 + n) / 6) ** alpha).masked_fill(~ended, -math.inf).max(1)
            better = values > best
            best = torch.where(better, values, best)
            found[better] = texts[rows[:, 0], places][better]
            chance = torch.where(better, scores[rows[:, 0], places], chance)
            size = torch.where(better, n, size)
            texts[..., n - 1] = before
            scores = scores.masked_fill(ended, -math.inf)
            # Going on makes no hypothesis likelier, and at the limit its length weighs most.
            if (best >= scores.amax(1) / ((5 + limits) / 6) ** alpha).all():
                break
        return found, chance, size

    def say(self, source: Ids, beam: int, alpha: float = ALPHA) -> tuple[list[list[int]], list[float]]:
        """For many sources the targets as numbers, and log p for each of their symbols, the end among them."""
        said: list[list[int]] = [[]] * (len(source.ends) - 1)
        chance = [0.0] * len(said)
        for chosen in torch.split(source.lengths.argsort(stable=True), max(1, ROWS // beam)):
            ids, lengths = (tensor.to(self.device) for tensor in source.take(chosen))
            found, total, size = self.search(ids, lengths, beam, alpha)
            for k, row, one in zip(chosen.tolist(), found.tolist(), (total / size).tolist(), strict=True):
                said[k], chance[k] = row[: row.index(PAD)] if PAD in row else row, one
        return said, chance

    def text(self, numbers: Sequence[int]) -> str:
        """The text of a target's numbers."""
        return self.symbols.join([self.about.target[number - UNKNOWN - 1] for number in numbers if number > UNKNOWN])

    # What a task asks.

    def read(self, files: Sequence[Path]) -> Pairs:
        """Pairs, cut as in training. Errors: FileNotFoundError, ValueError, one sentence that names the line."""
        return read_pairs(files, self.about.tokens, self.about.longest, self.known[0])

    def predict(self, files: Sequence[Path], *, beam: int = BEAM, alpha: float = ALPHA) -> Iterator[pd.DataFrame]:
        """A table with source, target and log p for each symbol of the target, the end among them, piece by piece.

        files: a source in each line; what follows a tab is not read. beam: hypotheses; 1 takes the likeliest symbol at
        each step. alpha: how much longer targets are preferred, as in `search`.
        Errors: FileNotFoundError, ValueError, one sentence that names the line.
        """
        if isinstance(beam, bool) or not isinstance(beam, int) or not 1 <= beam <= ROWS:
            raise ValueError(f"beam is {beam}: expected a whole number from 1 to {ROWS}")
        if not 0 <= alpha <= 10:
            raise ValueError(f"alpha is {alpha}: expected a number from 0 to 10")
        for path in files:
            if not Path(path).is_file():
                raise FileNotFoundError(f"There is no file '{path}': give the path of a text file")
        return self._predict(files, beam, alpha)

    def _predict(self, files: Sequence[Path], beam: int, alpha: float) -> Iterator[pd.DataFrame]:
        import pandas as pd

        for texts, ids in self._pieces(files):
            said, chance = self.say(ids, beam, alpha)
            columns = {"source": texts, "target": [self.text(one) for one in said], "log_probability": chance}
            yield pd.DataFrame(columns)

    def _pieces(self, files: Sequence[Path]) -> Iterator[tuple[list[str], Ids]]:
        texts: list[str] = []
        rows: list[list[int]] = []
        for path in files:
            for number, line in lines(path):
                texts.append(line.partition("\t")[0])
                rows.append(self._source(path, number, texts[-1]))
                if len(rows) == PIECE:
                    yield texts, Ids.of(rows)
                    texts, rows = [], []
        if rows:
            yield texts, Ids.of(rows)

    def _source(self, path: Path, number: int, text: str) -> list[int]:
        known = self.known[0]
        found = checked(path, number, "source", text, self.symbols, self.about.longest, known)
        return [known.get(symbol, UNKNOWN) for symbol in found]

    def look(self, path: Path) -> tuple[Trace, Any]:
        """The trace of the encoder on the first line of a file, and its symbols."""
        number, line = next(lines(path))
        text = line.partition("\t")[0]
        return self._trace(self._source(path, number, text)), self.symbols.split(text)

    @torch.no_grad()
    def _trace(self, ids: Sequence[int]) -> Trace:
        with trace(self.encoder) as run:
            self.encode(*(tensor.to(self.device) for tensor in Ids.of([ids]).take(torch.tensor([0]))))
        found: Trace = run[""]
        return found

    @torch.no_grad()
    def evaluate(self, data: Pairs) -> Results:
        """How near its targets are to the true ones, and how likely it finds those. Errors: ImportError."""
        source, target = (
            column.encode(known) for column, known in zip((data.source, data.target), self.known, strict=True)
        )
        cost = torch.zeros(len(data), dtype=torch.float64)
        for chosen in torch.split(source.lengths.argsort(stable=True), ROWS):
            costs, _, there = self.costs(Batch.of(source, target, chosen).to(self.device))
            table = torch.zeros(there.shape, dtype=torch.float64, device=self.device)
            table[there] = costs.double()
            cost[chosen] = table.sum(0).cpu()
        sizes = target.lengths + 1
        perplexity = math.exp(min(float(cost.sum() / sizes.sum()), 700.0))
        plain = (lambda text: " ".join(text.split())) if self.about.tokens == "words" else str
        sources, truths = ([plain(text) for text in side] for side in zip(*data.texts, strict=True))
        greedy, _ = self.say(source, 1)
        said = {"greedy": greedy, f"beam of {BEAM}": self.say(source, BEAM)[0]}
        texts = {name: [self.text(one) for one in every] for name, every in said.items()}
        scores = {name: scores_of(every, truths, self.symbols.closed) for name, every in texts.items()}
        baseline = {"copy of the source": scores_of(sources, truths, self.symbols.closed)}
        unknown = [int((side.flat == UNKNOWN).sum()) for side in (source, target)]
        metrics: dict[str, Any] = {"test": scores | baseline, "perplexity": perplexity, "pairs": {"test": len(data)}}
        metrics["unknown"] = dict(zip(("source", "target"), unknown, strict=True))
        order = (cost / sizes).argsort(descending=True).tolist()
        parts = [
            metrics_table(scores, baseline, perplexity, unknown, len(data)),
            worst_table(order[:WORST], sources, truths, texts[f"beam of {BEAM}"], (cost / sizes).tolist()),
        ]
        return Results(metrics, [*parts, *self._pictures(source, greedy)])

    def _pictures(self, source: Ids, said: Sequence[Sequence[int]]) -> Iterator[Picture]:
        """What it looked at, and what the encoder's gates did, for the first sources of some lengths."""
        lengths = source.lengths.tolist()
        first: dict[int, int] = {}  # of each length
        for k, (length, own) in enumerate(zip(lengths, said, strict=True)):
            if max(length, len(own)) <= WIDE:
                first.setdefault(length, k)
        chosen = list(first.values())[:4] or [lengths.index(min(lengths))]
        batch = Batch.of(source, Ids.of(said), torch.tensor(chosen)).to(self.device)
        weights = self(batch)[1].transpose(0, 1).cpu().numpy()  # (B, T, S)
        rows = [source.part(torch.tensor([k])).flat.tolist() for k in chosen]
        labels = [
            ([label(self.about.source, n) for n in row], [label(self.about.target, n) for n in [*said[k], END]])
            for k, row in zip(chosen, rows, strict=True)
        ]
        cut = [one[: len(right), : len(left)] for one, (left, right) in zip(weights, labels, strict=True)]
        yield Picture(
            "What the decoder looks at",
            attention_figure(cut, labels),
            "The source from left to right, the model's target from top to bottom. The darker, the more a symbol of "
            "the source weighs when one of the target is said.",
        )
        title, note = "Inside the encoder while it reads a source", "The layer nearest to the source, forwards."
        yield gates(self._trace(rows[0]), title, note, read=labels[0][0])


def decoder_spec(spec: Spec, context: int) -> Spec:
    """The decoder's layers: those of the encoder, in one direction, with so many more inputs.

    Its first state is given, so none is learned.
    """
    return replace(spec, input_size=spec.input_size + context, bidirectional=False, learned_state=False)


def _tuple(state: Any) -> State:
    """A state as layers give it, also where it has one part."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def _given(state: State) -> Any:
    """A state as layers take it."""
    return state[0] if len(state) == 1 else state


class Seq2SeqJob(Job):
    """Trains a Translator on pairs."""

    model: Translator

    def __init__(self, data: Pairs, config: Seq2SeqConfig, share: Share) -> None:
        self.data, self.config, self.share, self.options = data, config, share, config
        self.parts = split(data, config)
        about = Facts.learn(data, self.parts.train, config)
        spec = config.spec(config.embedding)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Translator(spec, about, config.dropout)
            orthogonal(self.model.encoder, spec)
            orthogonal(self.model.decoder, self.model.decoder.spec)
        with torch.no_grad():  # characters that training has not stay so
            self.model.embed_source.weight[UNKNOWN] = 0
        sides = zip((data.source, data.target), self.model.known, strict=True)
        self.source, self.target = (column.encode(known) for column, known in sides)
        train = self.parts.train
        sizes = self.source.lengths[train] + self.target.lengths[train]
        self.batches = Shuffled(
            len(train), config.batch, lambda k: Batch.of(self.source, self.target, train[k]), config.seed, share, sizes
        )

    def loss(self, batch: Batch) -> tuple[Tensor, float]:
        """Over the symbols of the targets, their ends among them."""
        cost, *_ = self.model.costs(batch, self.options.teacher_forcing, self.options.label_smoothing)
        return cost.sum(), len(cost)

    def score(self) -> dict[str, tuple[float, float]]:
        """What a true symbol costs, and how many are not the likeliest, where the true ones before are known."""
        own = self.parts.validation[list(self.share.of(len(self.parts.validation)))]
        total = wrong = count = 0.0
        own = own[self.source.lengths[own].argsort(stable=True)]
        for chosen in torch.split(own, ROWS) if len(own) else ():
            cost, right, _ = self.model.costs(Batch.of(self.source, self.target, chosen).to(self.model.device))
            total += float(cost.double().sum())
            wrong += float((~right).sum())
            count += len(cost)
        return {"cross-entropy": (total, count), "wrong symbols": (wrong, count)}

    def results(self) -> Results:
        """On the test part."""
        results = self.model.evaluate(self.data.part(self.parts.test))
        results.metrics["pairs"] = {name: len(part) for name, part in self.parts._asdict().items()}
        return results


TASK = Task(Translator, read, Seq2SeqJob)
