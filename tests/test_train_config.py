"""Options: the same ones in Python, on the command line and in YAML, and each sentence about one that is wrong."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from typer import rich_utils
from typer.testing import CliRunner

from openlstm.cli import app
from openlstm.spec import known_options
from openlstm.train.config import CONFIGS, RECURRENT, Config, ForecastConfig, read_yaml, to_yaml

COMMANDS = [*(f"train {name}" for name in CONFIGS), "train", "evaluate", "predict", "sample"]
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture
def told(monkeypatch):
    """What --help says of a command in so many columns."""

    def told(command: str, width: int) -> str:
        monkeypatch.setattr(rich_utils, "MAX_WIDTH", width)
        result = CliRunner().invoke(app, [*command.split(), "--help"])
        assert result.exit_code == 0
        return result.output

    return told


@every
def test_yaml_round_trip(config, tmp_path):
    """What is printed is all that there is, and reads back to the same configuration."""
    made = config(hidden=7, learning_rate=1e-5, recurrent={"zoneout_h": 0.25}, steps_per_epoch=3)
    (tmp_path / "c.yaml").write_text(to_yaml(made, ["a.csv"]))
    values, files = read_yaml(tmp_path / "c.yaml", config)
    assert set(values) == {each.name for each in dataclasses.fields(config)}
    assert config(**values) == made and files == ["a.csv"]


@every
def test_print_config_says_what_was_given(config):
    arguments = ["train", config.task, "--hidden", "9", "--zoneout-h", "0.5", "--layer-norm", "--print-config"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = yaml.safe_load(result.output)
    plain = yaml.safe_load(to_yaml(config()))
    different = {name for name in plain if found[name] != plain[name]}
    assert different == {"hidden", "recurrent"}
    assert (found["hidden"], found["recurrent"]) == (9, {"zoneout_h": 0.5, "layer_norm": True})


def test_print_config_without_a_task_prints_all():
    result = CliRunner().invoke(app, ["train", "--print-config"])
    assert [each["task"] for each in yaml.safe_load_all(result.output)] == list(CONFIGS)


@every
def test_every_option_is_on_the_command_line(config, told):
    """With its help, its default and its heading, and so is every option of the recurrent layers."""
    text = told(f"train {config.task}", 200)
    for each in dataclasses.fields(config):
        if each.name != "recurrent":
            assert "--" + each.name.replace("_", "-") + " " in text, each.name
    for name in RECURRENT:
        there = "--" + name.replace("_", "-") + " " in text
        assert there is (name != "bidirectional" or config.may_read_ahead), name
    assert known_options().keys() - RECURRENT.keys() == {"batch_first", "dropout"}
    assert config.summary[:20] in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_whole_in_eighty_columns(command, told):
    text = told(command, 80)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text and max(map(len, text.splitlines())) == 80


@every
def test_help_tells_the_defaults_of_training(config, told):
    """The layers that a task takes by itself, not those of a spec."""
    lines = {line.split()[1]: line for line in told(f"train {config.task}", 200).splitlines() if "│ --" in line}
    assert "[default: 1.0]" in lines["--forget-bias"] and config().spec(1).forget_bias == 1.0
    assert "One of diagonal, dense. For lstm. [default: none]" in lines["--peephole"]
    assert "[default: sigmoid/tanh/tanh or sigmoid/tanh]" in lines["--activations"]
    both_ways = config().spec(1).bidirectional
    assert both_ways == (config.task == "seq2seq") == ("[default: bidirectional]" in lines.get("--bidirectional", ""))


def test_an_option_on_the_command_line_goes_before_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("hidden: 5\nlayers: 2\nrecurrent: {peephole: diagonal}\n")
    arguments = ["train", "forecast", "-c", tmp_path / "c.yaml", "--hidden", 6, "--cell-clip", 3, "--print-config"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    found = yaml.safe_load(result.output)
    assert (found["hidden"], found["layers"]) == (6, 2)
    assert found["recurrent"] == {"peephole": "diagonal", "cell_clip": 3.0}


def test_none_is_given_as_help_says_it(tmp_path):
    (tmp_path / "c.yaml").write_text("recurrent: {peephole: diagonal}\n")
    arguments = ["-c", str(tmp_path / "c.yaml"), "--peephole", "none", "--forget-bias", "none", "--print-config"]
    result = CliRunner().invoke(app, ["train", "forecast", *arguments])
    found = yaml.safe_load(result.output)["recurrent"]
    assert found == {"peephole": None, "forget_bias": None}
    assert str(ForecastConfig(hidden=4, recurrent=found).spec(1)) == "lstm(1, 4)"


def test_lists_of_numbers_and_names():
    arguments = "--target a --target b,c --arima 9,0,1 --quantile 0.1,0.9 --print-config"
    result = CliRunner().invoke(app, ["train", "forecast", *arguments.split()])
    found = yaml.safe_load(result.output)
    assert (found["target"], found["arima"], found["quantile"]) == (["a", "b,c"], [9, 0, 1], [0.1, 0.9])


def test_an_unknown_cell():
    with pytest.raises(ValueError, match=r"^Unknown cell 'lstn': expected one of lstm, gru, rnn, .*--cells FILE"):
        ForecastConfig(cell="lstn")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden": 0}, "hidden is 0: expected at least 1"),
        ({"hidden": 2.5}, "hidden is 2.5: expected a whole number"),
        ({"hidden": True}, "hidden is True: expected a whole number"),
        ({"hidden": "many"}, "hidden is 'many': expected a whole number"),
        ({"window": 1}, "window is 1: expected at least 2, or nothing: two seasons, or 32"),
        ({"dropout": 1.0}, "dropout is 1.0: expected at least 0 and below 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan: expected a number above 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast': expected a number"),
        ({"output": "up"}, "output is 'up': expected one of auto, level, change"),
        ({"seed": 2**32}, f"seed is {2**32}: expected at least 0 and below 4.29497e+09"),
        ({"recursive": 1}, "recursive is 1: expected true or false"),
        ({"target": (1,)}, "target is 1: expected a text"),
        ({"arima": (1, 2)}, "arima is 1, 2: expected three numbers, p, d and q"),
        ({"quantile": (0.5, 1.0)}, "quantile is 1.0: expected above 0 and below 1"),
        ({"recurrent": 3}, "recurrent is 3: expected names and values"),
        ({"recurrent": {"dropout": 0.5}}, "recurrent has 'dropout', which forecast sets itself: leave it out"),
        ({"recurrent": {"peephole": "round"}}, "peephole='round': expected one of None, 'diagonal', 'dense'"),
        (
            {"recurrent": {"bidirectional": True}},
            "bidirectional layers read what forecast is to say: leave that option out",
        ),
        (
            {"recursive": True, "horizon": 2, "quantile": (0.9,)},
            "recursive forecasts feed back one value, not its quantiles: leave out one of the two",
        ),
        (
            {"recursive": True, "horizon": 2, "observed": ("rain",)},
            "recursive forecasts would need the observed columns ahead: leave out one of the two",
        ),
    ],
)
def test_a_bad_option_gets_one_sentence(given, message):
    with pytest.raises(ValueError) as error:
        ForecastConfig(**given)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden: 5\n", "'c.yaml' has 'hiden', which forecast does not know: did you mean 'hidden'?"),
        ("task: text\n", "'c.yaml' is for the task 'text', not for 'forecast': run `openlstm train text`"),
        ("task: poetry\n", "'c.yaml' is for the task 'poetry', not for 'forecast': expected one of forecast, text"),
        ("- a\n", "'c.yaml' holds no options: expected lines such as 'hidden: 64'"),
        ("", "'c.yaml' holds no options: expected lines such as 'hidden: 64'"),
        ("a: [\n", "'c.yaml' is not YAML that can be read (while parsing"),
        ("data: a.csv\n", "'c.yaml' has data: 'a.csv', expected a list of files"),
        ("!!python/object/apply:os.system ['true']\n", "'c.yaml' is not YAML that can be read (could not determine"),
    ],
)
def test_a_bad_file_gets_one_sentence(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError) as error:
        read_yaml("c.yaml", ForecastConfig)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        ({}, "lstm(1, 4; forget_bias=1.0)"),
        ({"cell": "gru", "layers": 2, "dropout": 0.3}, "gru(1, 4, 4; dropout=0.3)"),
        ({"recurrent": {"coupled": "f=1-i"}}, "lstm(1, 4; coupled=f=1-i)"),
        ({"recurrent": {"forget_bias": 2, "peephole": "dense"}}, "lstm(1, 4; peephole=dense, forget_bias=2.0)"),
    ],
)
def test_options_reach_the_layers(config, spec):
    assert str(Config(hidden=4, **config).spec(1)) == spec
