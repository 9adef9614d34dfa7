"""What can be set: the options of every task, written once for Python, the command line and YAML files. No torch."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..cells import BUILT_IN
from ..spec import Spec, known_options
from ..words import close

DATA, MODEL, TRAINING = "Data", "Model", "Training"  # under which heading an option is listed
# Of the recurrent layers: those that a task does not set itself.
RECURRENT = {name: known for name, known in known_options().items() if name not in ("batch_first", "dropout")}

# What is kept back of the data, counted in what a task has many of.
TEST = "Held out and only scored: a share below 1, or a number of {}."
VALIDATION = "Held out to choose when to stop: a share below 1 of the rest, or a number of {}."

C = TypeVar("C", bound="Config")


def option(
    default: Any,
    help: str,
    heading: str,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    none: str = "none",
) -> Any:
    """A field of a configuration. least, above, below, most: its bounds. none: what it is where nothing is given."""
    told: dict[str, Any] = {"help": help, "heading": heading, "choices": choices, "none": none}
    told |= {"least": least, "above": above, "below": below, "most": most}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=told)
    return field(default=default, metadata=told)


def changed(name: str, default: Any, **told: Any) -> Any:
    """An option that all tasks have, with another default or other words. It needs its annotation again."""
    return field(default=default, metadata={**Config.__dataclass_fields__[name].metadata, **told})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every task can be told. Errors: ValueError, TypeError, one sentence that names the option."""

    task: ClassVar[str] = ""
    summary: ClassVar[str] = ""  # what training it does, for --help
    may_read_ahead: ClassVar[bool] = False  # does it make sense that the layers read from the end too
    reads_ahead: ClassVar[bool] = False  # do they, where nothing else is said

    test: float = option(0.2, TEST.format("rows"), DATA, above=0)
    validation: float = option(0.2, VALIDATION.format("rows"), DATA, above=0)
    cell: str = option("lstm", f"Kind of the recurrent layers: {', '.join(BUILT_IN)}, or a declared cell.", MODEL)
    hidden: int = option(32, "Units in each layer.", MODEL, least=1)
    layers: int = option(1, "Recurrent layers.", MODEL, least=1)
    recurrent: Mapping[str, Any] = option(
        {}, "More of the recurrent layers, such as {peephole: diagonal}: what --help lists.", MODEL
    )
    dropout: float = option(0.0, "Share of units left out in training.", MODEL, least=0, below=1)
    epochs: int = option(100, "Epochs to train, at most.", TRAINING, least=1)
    steps_per_epoch: int | None = option(
        None, "Batches in an epoch, after which the model is scored.", TRAINING, least=1, none="all data once"
    )
    patience: int = option(10, "Epochs without improvement after which training ends.", TRAINING, least=1)
    batch: int = option(32, "Sequences in one step of training, in each process.", TRAINING, least=1)
    learning_rate: float = option(3e-3, "Learning rate of AdamW.", TRAINING, above=0)
    schedule: str = option(
        "constant",
        "How the learning rate goes on: as it is, or down to 0 in a line or a cosine.",
        TRAINING,
        choices=("constant", "linear", "cosine"),
    )
    warmup: int = option(0, "Steps in which the learning rate first rises from 0.", TRAINING, least=0)
    weight_decay: float = option(0.0, "Weight decay of AdamW, on matrices alone.", TRAINING, least=0)
    clip: float = option(1.0, "Greatest norm of the gradient; a greater one is scaled down.", TRAINING, above=0)
    precision: str = option(
        "32-true",
        "Numbers to compute with, as Lightning names them.",
        TRAINING,
        choices=("32-true", "bf16-mixed", "16-mixed"),
    )
    device: str = option("cpu", "Where to train.", TRAINING, choices=("cpu", "gpu", "auto"))
    threads: int | None = option(
        None, "Threads of each process on the CPU.", TRAINING, least=1, none="one up to 64 units, else as torch has"
    )
    seed: int = option(0, "The same seed gives the same model.", TRAINING, least=0, below=2**32)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            object.__setattr__(self, each.name, _checked(each, hints(type(self))[each.name], getattr(self, each.name)))
        if self.recurrent.get("bidirectional") and not self.may_read_ahead:
            raise ValueError(f"bidirectional layers read what {self.task} is to say: leave that option out")
        for name in self.recurrent:
            if name in ("batch_first", "dropout"):
                raise ValueError(f"recurrent has '{name}', which {self.task} sets itself: leave it out")
        self.spec(1)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that options name: they are data too."""
        return ()

    def spec(self, inputs: int, **given: Any) -> Spec:
        """The recurrent layers, for that many inputs. Errors: ValueError for an option that the cell does not have."""
        own = {"dropout": self.dropout if self.layers > 1 else 0.0, "bidirectional": self.reads_ahead}
        own |= dict(self.recurrent) | given
        spec = Spec.of(self.cell, inputs, self.hidden, self.layers, None, **own)
        return Spec.of(self.cell, inputs, self.hidden, self.layers, None, **(spec.definition.advised(spec) | own))


def held_out(name: str, given: float, total: int, what: str) -> int:
    """How many of `total` an option keeps back: a share below 1 of them, at least one, or so many. Errors: ValueError.

    >>> held_out("test", 0.2, 50, "rows"), held_out("test", 7, 50, "rows")
    (10, 7)
    """
    if not given > 0 or (given >= 1 and given != int(given)):
        raise ValueError(f"{name} is {given:g}: expected a share such as 0.2, or a number of {what} such as 60")
    return int(given) if given >= 1 else max(1, round(given * total))


def hints(config: type) -> dict[str, Any]:
    """The types of a configuration's options."""
    return typing.get_type_hints(config)


def kind_of(hint: Any) -> tuple[type, bool, bool]:
    """What an option holds: the type, may it be nothing, are there many."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kind, _, many = kind_of(next(a for a in typing.get_args(hint) if a is not type(None)))
        return kind, True, many
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], False, True
    return (dict if typing.get_origin(hint) is not None else hint), False, False


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "names and values"}


def _checked(each: dataclasses.Field[Any], hint: Any, value: Any) -> Any:
    """The value, of the type that the option has. Errors: ValueError."""
    kind, optional, many = kind_of(hint)
    if value is None and optional:
        return None
    if many:
        values = value if isinstance(value, (list, tuple)) else (value,)
        return tuple(_checked_one(each, kind, item, optional) for item in values)
    return _checked_one(each, kind, value, optional)


def _checked_one(each: dataclasses.Field[Any], kind: type, value: Any, optional: bool) -> Any:
    name, told = each.name, each.metadata
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, str):  # YAML reads 1e-3 as a text
        with contextlib.suppress(ValueError):
            value = float(value)
    given = f"{name} is {value!r}" if isinstance(value, str) else f"{name} is {value}"
    fits = isinstance(value, Mapping if kind is dict else kind) and not (kind is int and isinstance(value, bool))
    nothing = f", or nothing: {told['none']}" if optional else ""
    if not fits:
        raise ValueError(f"{given}: expected {_WORDS[kind]}{nothing}")
    if told["choices"] and value not in told["choices"]:
        raise ValueError(f"{given}: expected one of {', '.join(told['choices'])}")
    bounds = {"at least": told["least"], "above": told["above"], "below": told["below"], "at most": told["most"]}
    bounds = {words: bound for words, bound in bounds.items() if bound is not None}
    holds = {"at least": operator.ge, "above": operator.gt, "below": operator.lt, "at most": operator.le}
    if value != value or not all(holds[words](value, bound) for words, bound in bounds.items()):
        said = [f"{words} {bound:g}" for words, bound in bounds.items()]
        raise ValueError(
            f"{given}: expected {_WORDS[kind] + ' ' if value != value else ''}{' and '.join(said)}{nothing}"
        )
    return dict(value) if kind is dict else value


def help_of(each: dataclasses.Field[Any]) -> str:
    """What an option is, and what it may be."""
    choices = f" One of {', '.join(each.metadata['choices'])}." if each.metadata["choices"] else ""
    return str(each.metadata["help"]) + choices


def known(config: type[Config], names: typing.Iterable[str], where: str) -> None:
    """Checks that there are such options. Errors: ValueError, with the nearest name."""
    there = [each.name for each in dataclasses.fields(config)]
    for name in names:
        if name not in there:
            near = close(str(name), there)
            advice = f"did you mean '{near}'?" if near else f"expected some of {', '.join(there)}"
            raise ValueError(f"{where} has '{name}', which {config.task} does not know: {advice}")


def to_yaml(config: Config, data: typing.Sequence[str] = ()) -> str:
    """All options as YAML, each with what it is. `data`: the files that belong to it."""
    import yaml

    def lines(value: dict[str, Any]) -> str:
        return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**6)).rstrip("\n")

    parts = [lines({"task": config.task, "data": list(data)})]
    by_heading: dict[str, list[str]] = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        plain = list(value) if isinstance(value, tuple) else _plain(value) if isinstance(value, dict) else value
        text = lines({each.name: plain})
        none = f" null: {each.metadata['none']}." if value is None else ""
        by_heading.setdefault(each.metadata["heading"], []).append(f"# {help_of(each)}{none}\n{text}")
    parts += [f"\n## {heading}\n" + "\n".join(options) for heading, options in by_heading.items()]
    return "\n".join(parts) + "\n"


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(item) if isinstance(item, tuple) else item for name, item in value.items()}


def read_yaml(path: str | os.PathLike[str], config: type[Config]) -> tuple[dict[str, Any], list[str]]:
    """The options that a YAML file gives, and the data files that it names. Errors: FileNotFoundError, ValueError."""
    given = load_yaml(path)
    task = given.pop("task", config.task)
    if task != config.task:
        advice = f"run `openlstm train {task}`" if task in CONFIGS else f"expected one of {', '.join(CONFIGS)}"
        raise ValueError(f"'{path}' is for the task {task!r}, not for '{config.task}': {advice}")
    data = given.pop("data", None) or []
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise ValueError(f"'{path}' has data: {data!r}, expected a list of files")
    known(config, given, f"'{path}'")
    return given, data


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a YAML file holds, by name. Errors: FileNotFoundError, ValueError."""
    import yaml

    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}': give a YAML file, such as --print-config prints")
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"'{path}' is not YAML that can be read ({reason}): see `--print-config`") from None
    if not isinstance(given, dict):
        raise ValueError(f"'{path}' holds no options: expected lines such as 'hidden: 64'")
    return given


@dataclass(frozen=True, kw_only=True)
class ForecastConfig(Config):
    """What `openlstm train forecast` can be told."""

    task: ClassVar[str] = "forecast"
    summary: ClassVar[str] = (
        "Train a forecast of series in CSV or Parquet files, and score it on their held-out ends against naive and "
        "statistical forecasts."
    )

    target: tuple[str, ...] = option(
        (), "Column to forecast, which must be given; several are series of their own.", DATA
    )
    time: str | None = option(None, "Column of times: numbers or dates.", DATA)
    id: str | None = option(None, "Column that tells apart series which stand one below the other.", DATA)
    known: tuple[str, ...] = option((), "Column that is known ahead, such as holidays.", DATA)
    observed: tuple[str, ...] = option((), "Column that is known up to now only, such as the weather.", DATA)
    horizon: int = option(1, "Steps ahead to forecast and to score.", DATA, least=1)
    recursive: bool = option(False, "Feed forecasts back, instead of giving all steps at once.", DATA)
    window: int | None = option(None, "Steps that the model reads.", DATA, least=2, none="two seasons, or 32")
    season: int | None = option(None, "Length of a season, 0 for none.", DATA, least=0, none="looked for")
    transform: str = option(
        "auto",
        "What is done to values before scaling; auto: that by which steps depend least on the level.",
        DATA,
        choices=("auto", "none", "sqrt", "log"),
    )
    output: str = option(
        "auto",
        "What is learned: values, or changes from the last one; auto: as the nearer of two naive forecasts does.",
        DATA,
        choices=("auto", "level", "change"),
    )
    quantile: tuple[float, ...] = option((), "Quantiles to forecast too, such as 0.1 and 0.9.", DATA, above=0, below=1)
    ets: bool = option(False, "Compare with statsmodels' exponential smoothing.", DATA)
    arima: tuple[int, ...] = option((), "Compare with statsmodels' ARIMA: its p, d and q.", DATA, least=0)
    hidden: int = changed("hidden", 64)
    dropout: float = changed("dropout", 0.3)
    learning_rate: float = changed("learning_rate", 1e-2)
    epochs: int = changed("epochs", 300)
    patience: int = changed("patience", 40)
    steps_per_epoch: int | None = changed("steps_per_epoch", None, none="all windows once, but 4000 at most")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recursive and self.quantile and self.horizon > 1:
            raise ValueError("recursive forecasts feed back one value, not its quantiles: leave out one of the two")
        if self.recursive and self.observed and self.horizon > 1:
            raise ValueError("recursive forecasts would need the observed columns ahead: leave out one of the two")
        if len(self.arima) not in (0, 3):
            raise ValueError(f"arima is {', '.join(map(str, self.arima))}: expected three numbers, p, d and q")


@dataclass(frozen=True, kw_only=True)
class TextConfig(Config):
    """What `openlstm train text` can be told. The defaults train for minutes, however long the text is."""

    task: ClassVar[str] = "text"
    summary: ClassVar[str] = (
        "Train a model of characters or bytes on text files, and score it on their held-out end beside n-gram models. "
        "`openlstm sample` lets it write."
    )

    unit: str = option("character", "What is read at a step.", DATA, choices=("character", "byte"))

    test: float = changed("test", 0.05, help=TEST.format("characters"))
    validation: float = changed("validation", 0.02, help=VALIDATION.format("characters"))
    hidden: int = changed("hidden", 384)
    embedding: int = option(64, "Numbers that stand for a character or a byte.", MODEL, least=1)
    window: int = option(32, "Steps that gradients go back; the states go on.", TRAINING, least=1)
    epochs: int = changed("epochs", 20)
    steps_per_epoch: int | None = changed("steps_per_epoch", 800)
    patience: int = changed("patience", 4)
    learning_rate: float = changed("learning_rate", 6e-3)
    schedule: str = changed("schedule", "cosine")
    warmup: int = changed("warmup", 200)
    weight_decay: float = changed("weight_decay", 0.01)


@dataclass(frozen=True, kw_only=True)
class FramesConfig(Config):
    """What `openlstm train frames` can be told."""

    task: ClassVar[str] = "frames"
    summary: ClassVar[str] = (
        "Train a model that labels the frames of sequences, or whole sequences, in .npz, .jsonl or .parquet files."
    )
    may_read_ahead: ClassVar[bool] = True

    test: float = changed("test", 0.2, help=TEST.format("sequences"))
    validation: float = changed("validation", 0.2, help=VALIDATION.format("sequences"))
    normalise: bool = option(True, "Bring each feature to mean 0 and deviation 1, by the training part.", DATA)
    stack: int = option(1, "Consecutive frames that are read at one step, side by side.", DATA, least=1, below=1001)
    skip: int = option(1, "Frames from one step to the next; those between get its label.", DATA, least=1, below=1001)
    delay: int = option(0, "Steps by which a label comes after its frame.", DATA, least=0, below=1001)
    hidden: int = changed("hidden", 128)
    class_weights: str = option(
        "none",
        "What a label counts: one, or the less the more there are of its class.",
        TRAINING,
        choices=("none", "balanced"),
    )
    truncate: int | None = option(
        None, "Steps that gradients go back; the states go on.", TRAINING, least=1, none="the whole sequence"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spec(1).bidirectional:
            if self.delay:
                raise ValueError(
                    f"delay is {self.delay}, but bidirectional layers have read what comes later: leave one out"
                )
            if self.truncate is not None:
                raise ValueError(
                    f"truncate is {self.truncate}, but bidirectional layers need a whole sequence: leave one out"
                )


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(Config):
    """What `openlstm train seq2seq` can be told."""

    task: ClassVar[str] = "seq2seq"
    summary: ClassVar[str] = (
        "Train an encoder and a decoder with attention on pairs of texts, a source, a tab and a target in each line."
    )
    may_read_ahead: ClassVar[bool] = True  # the encoder has its whole source; the decoder never does
    reads_ahead: ClassVar[bool] = True

    test: float = changed("test", 0.2, help=TEST.format("sources"))
    validation: float = changed("validation", 0.2, help=VALIDATION.format("sources"))
    tokens: str = option(
        "characters", "Symbols of a text: 'characters', 'words', or the path of a tokenizers JSON file.", DATA
    )
    rare: int = option(
        2, "Words that stand less often in the training part are unknown; characters never are.", DATA, least=1
    )
    vocabulary: int = option(20_000, "Words of each side that are known, at most: the most frequent.", DATA, least=1)
    longest: int = option(500, "Symbols of a source or a target, at most.", DATA, least=1, below=10_001)
    hidden: int = changed("hidden", 128)
    embedding: int = option(64, "Numbers that stand for a symbol.", MODEL, least=1)
    attention: str = option(
        "multiplicative",
        "How the decoder looks at the source: as in Luong et al. 2015, or Bahdanau et al. 2015, which is slower.",
        MODEL,
        choices=("multiplicative", "additive"),
    )
    dropout: float = changed("dropout", 0.2)
    batch: int = changed("batch", 64)
    teacher_forcing: float = option(
        1.0,
        "Share of steps that are told the true symbol before; the others are told the model's own.",
        TRAINING,
        least=0,
        most=1,
    )
    label_smoothing: float = option(
        0.0, "Share of the probability that is spread over all symbols.", TRAINING, least=0, below=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        spec = self.spec(1)
        on_hidden = spec.recurrent_dropout and spec.recurrent_dropout_on == "hidden"
        for name in ["recurrent_dropout"] * bool(on_hidden) + ["weight_dropout"] * bool(spec.weight_dropout):
            if self.stepwise:
                raise ValueError(
                    f"{name} is one mask for a whole sequence, but with {self.stepwise} the decoder runs one step at a "
                    "time: leave it out, or use multiplicative attention and teacher_forcing 1"
                )

    @property
    def files(self) -> tuple[str, ...]:
        """The tokenizer's."""
        return () if self.tokens in ("characters", "words") else (self.tokens,)

    @property
    def stepwise(self) -> str:
        """Why the decoder runs one step at a time in training; empty: it does not."""
        if self.attention == "additive":
            return "additive attention"
        return "" if self.teacher_forcing == 1 else f"teacher_forcing {self.teacher_forcing:g}"


CONFIGS: dict[str, type[Config]] = {
    each.task: each for each in (ForecastConfig, TextConfig, FramesConfig, Seq2SeqConfig)
}
