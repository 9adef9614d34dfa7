"""A training run from files to a folder: it repeats, resumes to the same bits, is shared, and leaves nothing half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from openlstm import file
from openlstm.cli import WRONG, app
from openlstm.train import load, loop, runs
from openlstm.train.config import Config, ForecastConfig
from openlstm.train.forecast import ForecastJob
from openlstm.train.report import how
from openlstm.train.series import Series
from openlstm.train.task import Job, Results, Share, Shuffled, seeded

SMALL = ForecastConfig(target=("y",), hidden=4, epochs=3, window=8, batch=64)


def wave(count: int = 120) -> Series:
    noise = np.random.default_rng(0).normal(size=count)
    return Series("it", "y", 10 + 3 * np.sin(2 * np.pi * np.arange(count) / 12) + 0.3 * noise)


@pytest.fixture
def csv(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [f"{1900 + k},{value:.3f}\n" for k, value in enumerate(wave().values)]
    Path("wave.csv").write_text("year,y\n" + "".join(lines))
    return Path("wave.csv")


@pytest.fixture
def run():
    """Runs a command line; gives its exit code and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    return run


def weights(model: nn.Module) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in model.state_dict().values()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all((x == y).all() for x, y in zip(weights(a), weights(b), strict=True))


class Toy(Job):
    """Fits a line. `scores`: what score() says in each epoch, instead of the loss."""

    def __init__(self, config: Config, scores=None, share: Share | None = None) -> None:
        self.config, self.share = config, share or Share()
        self.scores = None if scores is None else iter(scores)
        self.seen: list[float] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(config.dropout), nn.Linear(8, 1))
        self.x = torch.randn(37, 3, generator=seeded(1))
        self.y = self.x.sum(1, keepdim=True)
        self.batches = Shuffled(37, config.batch, lambda chosen: (self.x[chosen], self.y[chosen]), config.seed, share)

    def loss(self, batch):
        x, y = batch
        return ((self.model(x) - y) ** 2).sum(), len(x)

    def score(self):
        self.seen.append(self.model[0].weight[0, 0].item())
        if self.scores is not None:
            return {"made": (next(self.scores), 1)}
        total, count = self.loss(
            (self.x[self.share.rank :: self.share.world], self.y[self.share.rank :: self.share.world])
        )
        return {"loss": (float(total), count)}

    def results(self):
        return Results({})


TOY = Config(epochs=10, patience=10, batch=4, dropout=0.2, learning_rate=0.05)


def test_one_seed_one_model():
    state = torch.random.get_rng_state()
    first, again, other = (runs.fit(replace(SMALL, seed=seed), [wave()]) for seed in (1, 1, 2))
    assert same(first.model, again.model) and not same(first.model, other.model)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's numbers are not disturbed


def test_the_best_weights_are_kept():
    """After an epoch that makes it worse, the model has the weights of the best one, and so had `keep`."""
    job, kept = Toy(replace(TOY, patience=2), [3.0, 1.0, 2.0, 2.5]), []
    outcome = loop.train(job, keep=lambda: kept.append(job.model[0].weight[0, 0].item()))
    assert (outcome.stopped, outcome.epochs, outcome.best_epoch, outcome.best_score) == ("patience", 4, 2, 1.0)
    assert len(set(job.seen)) == 4 and kept == job.seen[:2] and job.model[0].weight[0, 0].item() == job.seen[1]
    assert not job.model.training
    assert [each["made"] for each in outcome.curve] == [3.0, 1.0, 2.0, 2.5]


def test_a_score_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match=r"^Training gave no finite score in any epoch: "):
        loop.train(Toy(TOY, [float("nan")]))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_follows_its_schedule(schedule):
    config = replace(TOY, schedule=schedule, warmup=4, epochs=5)
    factor = loop.schedule(config, steps=10)
    rise = [factor(step) for step in range(5)]
    assert rise == sorted(rise) and rise[0] == pytest.approx(0.2, abs=1e-6)
    late = [factor(step) for step in range(5, 50)]
    assert late == sorted(late, reverse=True) and factor(50) == (1.0 if schedule == "constant" else 0.0)


def test_weight_decay_is_of_matrices():
    """With a loss of 0, decay alone moves the matrices, and nothing moves the vectors."""
    job = Toy(replace(TOY, weight_decay=0.5, epochs=1))
    job.loss = lambda batch: (0 * job.model(batch[0]).sum(), len(batch[0]))  # type: ignore[method-assign]
    before = [p.detach().clone() for p in job.model.parameters()]
    loop.train(job)
    for old, new in zip(before, job.model.parameters(), strict=True):
        steps = len(job.batches)
        torch.testing.assert_close(new.detach(), old * (1 - 0.05 * 0.5) ** steps if old.dim() > 1 else old)


class Killed(Exception):
    pass


@pytest.mark.parametrize("steps", [None, 3, 25], ids=["one pass", "less", "more"])
def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path, monkeypatch, steps):
    """However often it is killed, in whichever epoch, and however long an epoch is."""
    monkeypatch.setattr(loop, "EVERY", 0.0)
    config = replace(TOY, steps_per_epoch=steps, schedule="cosine", warmup=3)
    whole = Toy(config)
    expected = loop.train(whole, folder=tmp_path)
    broken, count = tmp_path / "broken", 0
    broken.mkdir()

    def kill() -> None:
        nonlocal count
        count += 1
        if count in (2, 5, 6):
            raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            loop.train(Toy(config), folder=broken, resume=True, keep=kill)
    job = Toy(config)
    outcome = loop.train(job, folder=broken, resume=True, keep=kill)
    assert outcome.resumed > 0 and same(job.model, whole.model)
    assert outcome.curve == expected.curve and outcome.best_epoch == expected.best_epoch
    table = pd.read_csv(broken / "metrics.csv")
    assert table["epoch"].tolist() == list(range(1, 11))
    assert (broken / "metrics.csv").read_bytes() == (tmp_path / "metrics.csv").read_bytes()
    again = Toy(config)  # one that is over is not trained further
    loop.train(again, folder=broken, resume=True)
    assert same(again.model, whole.model) and not again.seen


def test_a_run_that_had_stopped_is_not_trained_further(tmp_path):
    job = Toy(replace(TOY, patience=2), [3.0, 1.0, 2.0, 2.5])
    loop.train(job, folder=tmp_path)
    again = Toy(replace(TOY, patience=2), [])
    outcome = loop.train(again, folder=tmp_path, resume=True)
    assert (outcome.stopped, outcome.epochs, outcome.best_epoch) == ("patience", 4, 2) and same(again.model, job.model)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    loop.train(Toy(TOY), folder=tmp_path, data="these")
    path = tmp_path / "last.ckpt"

    def message(config: Config, data: str = "these") -> str:
        with pytest.raises(ValueError) as error:
            loop.train(Toy(config), folder=tmp_path, resume=True, data=data)
        return str(error.value).replace(str(tmp_path), "run")

    anew = "give the same as then, or begin anew in another folder"
    assert message(replace(TOY, batch=5)) == f"'run/last.ckpt' is of a run with batch 4, now it is 5: {anew}"
    assert message(TOY, "those") == f"'run/last.ckpt' is of a run on other data: {anew}"
    assert message(ForecastConfig()) == f"'run/last.ckpt' is of the task '', this run is of 'forecast': {anew}"
    whole = path.read_bytes()
    for wrong in (b"", b"no", whole[:-100], whole[:50]):
        path.write_bytes(wrong)
        assert message(TOY) == (
            "'run/last.ckpt' is not a checkpoint of this version of openlstm: begin anew, with --overwrite or in "
            "another folder"
        )


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "pwned"),))

    torch.save({"openlstm": {"version": 1, "task": Evil()}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint of this version"):
        loop.train(Toy(TOY), folder=tmp_path, resume=True)
    assert not (tmp_path / "pwned").exists()


def test_every_sequence_is_seen_once_in_a_pass():
    for world, lengths in ((1, None), (2, None), (3, torch.arange(37))):
        whole = Shuffled(37, 4, lambda chosen: chosen, 0, Share(0, 1), lengths)
        shares = [Shuffled(37, 4, lambda chosen: chosen, 0, Share(rank, world), lengths) for rank in range(world)]
        passes = []
        for number in (0, 1):
            walks = [list(share.walk(number)) for share in shares]
            assert {len(walk) for walk in walks} == {len(shares[0])}
            seen = torch.cat([batch for walk in walks for batch, counts in walk if counts])
            assert sorted(seen.tolist()) == list(range(37))
            assert [b.tolist() for b, _ in shares[0].walk(number, 2)] == [b.tolist() for b, _ in walks[0]][2:]
            passes.append(seen.tolist())
        assert passes[0] != passes[1]
        if world == 1:
            assert [b.tolist() for b, _ in whole.walk(0)] == [b.tolist() for b, _ in shares[0].walk(0)]
    sizes = [batch for batch, _ in Shuffled(640, 8, lambda chosen: chosen, 0, None, torch.arange(640) % 80).walk(0)]
    assert np.mean([len(set((batch % 80).tolist())) for batch in sizes]) < 3  # of like length


def test_seeds_do_not_meet():
    first = {float(torch.rand((), generator=seeded(a, b))) for a in range(30) for b in range(30)}
    assert len(first) == 900


WORKER = """
import sys, pathlib
sys.path.insert(0, {tests!r})
import torch
from dataclasses import replace
from openlstm.train import loop
from openlstm.train.task import Share
from test_train import TOY, Toy
torch.set_num_threads(1)
loop.EVERY = 0.0
share, folder = Share.here(), pathlib.Path({folder!r})
job = Toy(replace(TOY, {options}), share=share)
if {kill} and share.rank == 1 and not (folder / "killed").exists():
    import os, signal
    score = job.score
    def dying():
        if len(job.seen) == 3:
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return score()
    job.score = dying
import os
outcome = loop.train(job, folder=folder, resume=int(os.environ["TORCHELASTIC_RESTART_COUNT"]) > 0)
if share.rank == 0:
    torch.save([p.detach() for p in job.model.parameters()] + [torch.tensor(outcome.resumed)], folder / "out.pt")
"""


def torchrun(folder: Path, kill: bool = False, **options: object) -> list[torch.Tensor]:
    folder.mkdir()
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    worker = WORKER.format(tests=str(Path(__file__).parent), folder=str(folder), options=text, kill=kill)
    (folder / "worker.py").write_text(worker)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run(
        [*command, str(folder / "worker.py")],
        capture_output=True,
        text=True,
        timeout=170,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "out.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo is for Linux and macOS")
def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path):
    """37 sequences in batches of 2 times 4, so the last batch has 3 and 2: the sums are those of one process."""
    *found, _ = torchrun(tmp_path / "two", dropout=0.0)
    job = Toy(replace(TOY, dropout=0.0, batch=8))
    loop.train(job)
    for a, b in zip(found, job.model.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo is for Linux and macOS")
def test_a_worker_that_was_killed_is_restarted_and_the_run_ends_right(tmp_path):
    *whole, _ = torchrun(tmp_path / "whole")
    *found, resumed = torchrun(tmp_path / "killed", kill=True)
    assert resumed == 3
    assert all(torch.equal(a, b) for a, b in zip(whole, found, strict=True))


def test_from_file_to_forecast(csv, run):
    """The commands, end to end."""
    code, text = run(
        *("train", "forecast", csv, "--target", "y", "--time", "year", "--hidden", 4, "--epochs", 3, "-o", "a/b")
    )
    assert code == 0, text
    assert "last value" in text and "last season" in text and "a/b/" in text
    assert {path.name for path in Path("a/b").iterdir()} == set(runs.WRITTEN)
    assert sorted(path.name for path in Path().iterdir()) == ["a", "wave.csv"]
    metrics = json.loads(Path("a/b/metrics.json").read_text())
    assert metrics["rows"] == {"train": 77, "validation": 19, "test": 24}
    assert set(metrics["test"]) == {"LSTM", "last value", "last season"}
    assert metrics["season"] == 12 and metrics["config"]["seed"] == 0 and metrics["files"] == ["wave.csv"]
    assert pd.read_csv("a/b/metrics.csv")["epoch"].tolist() == [1, 2, 3]
    assert list(Path("a/b/events").glob("events*"))
    page = Path("a/b/report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3 and "Worst forecasts" in page and "last season" in page

    code, text = run("predict", "a/b/model.safetensors", csv, "--steps", 3)
    lines = text.splitlines()
    assert code == 0 and lines[0] == "year,y" and [line.split(",")[0] for line in lines[1:]] == ["2020", "2021", "2022"]
    code, _ = run("predict", "a/b/model.safetensors", csv, "--steps", 3, "-o", "out.csv")
    assert code == 0 and Path("out.csv").read_text() == text

    code, text = run("evaluate", "a/b/model.safetensors", csv, "--last", 24, "-o", "out.json", "--report", "out.html")
    assert code == 0 and "last 24 rows" in text
    assert json.loads(Path("out.json").read_text())["test"] == metrics["test"]
    assert "last 24 rows" in Path("out.html").read_text()

    # The run's own configuration repeats it.
    code, text = run("train", "forecast", "-c", "a/b/config.yaml", "-o", "again")
    assert code == 0, text
    assert same(load("again/model.safetensors"), load("a/b/model.safetensors"))
    code, text = run("train", "--config", "a/b/config.yaml", "-o", "again")
    assert code == WRONG and "'again' has the model of an earlier run" in text
    assert run("train", "--config", "a/b/config.yaml", "-o", "again", "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("-c", "c.yaml", "forecast"),
            "--config stands before the task: give it behind, as in `openlstm train forecast",
        ),
        (("--print-config", "text"), "--print-config stands before the task: give it behind"),
        (("--overwrite",), "There is nothing to train: give a task or --config, as in `openlstm train forecast --ov"),
        (("-c", "c.yaml"), "'c.yaml' names no task: expected a line such as 'task: forecast', with one of forecast"),
    ],
)
def test_an_option_that_would_be_passed_over_gets_one_sentence(tmp_path, monkeypatch, run, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("hidden: 4\n")
    code, text = run("train", *arguments)
    assert code == WRONG and text.startswith("Error: ") and message in text and text.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "z"), "Error: 'wave.csv' has no column 'z': it has 'year', 'y'; choose one of them.\n"),
        (("--target", "y", "--window", "90"), "Error: 'wave.csv' has 120 rows, which leaves 77 to train on after 19 "),
        (("--target", "y", "--cell", "lstn"), "lstn"),
        (("--target", "y", "--cell", "gru", "--peephole", "diagonal"), "Unknown option 'peephole' of gru"),
        (("--target", "y", "-c", "none.yaml"), "There is no file 'none.yaml': give a YAML file"),
        (("--target", "y", "--horizon", "0"), "Error: horizon is 0: expected at least 1.\n"),
        (
            ("--target", "y", "-o", "wave.csv/run"),
            "Cannot make the folder 'wave.csv/run' (Not a directory): give another",
        ),
        (("--target", "y", "-o", "wave.csv"), "Cannot make the folder 'wave.csv' (File exists): give another one"),
        (("--target", "y", "--seed", "-1"), "seed is -1: expected at least 0 and below"),
        (("--target", "y", "--learning-rate", "inf"), "Training gave no finite score in any epoch: expected numbers"),
        (
            ("--target", "y", "--precision", "16-mixed"),
            "precision is '16-mixed', which the CPU does not have: take bf16",
        ),
        (("--target", "y", "--quantile", "0.1,1.5"), "Error: quantile is 1.5: expected above 0 and below 1.\n"),
    ],
)
def test_a_bad_command_gets_one_sentence_and_leaves_nothing(csv, run, arguments, message):
    code, text = run("train", "forecast", csv, *arguments)
    assert code == WRONG and message in text and text.count("\n") == 1 and text.startswith("Error: "), text
    assert [path.name for path in Path().iterdir()] == ["wave.csv"]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (loop.Outcome("epochs", 1, 1, 0.3, 0.44), "Trained to epoch 1, the best was epoch 1; 0.4 s"),
        (
            loop.Outcome("patience", 50, 10, 0.3, 71.8, 20),
            "Stopped in epoch 50, without improvement since epoch 10, re",
        ),
        (loop.Outcome("interrupt", 4, 3, 0.3, 12.3), "Stopped by Ctrl-C in epoch 5, the best was epoch 3; 12 s"),
    ],
)
def test_how_training_went_is_one_sentence(outcome, said):
    assert how(outcome).startswith(said)


def test_an_earlier_model_is_not_lost_by_mistake(csv, run):
    Path("run").mkdir()
    runs.fit(SMALL, [wave()]).model.save("run/model.safetensors")
    before = Path("run/model.safetensors").read_bytes()
    command = ("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    code, text = run(*command)
    assert (code, text) == (
        WRONG,
        "Error: 'run' has the model of an earlier run: choose another folder with -o, go on with --resume, or add "
        "--overwrite.\n",
    )
    assert Path("run/model.safetensors").read_bytes() == before
    assert run(*command, "--overwrite")[0] == 0
    assert Path("run/model.safetensors").read_bytes() != before


def test_a_disk_that_is_full_leaves_no_half_file(csv, run, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, text = run("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    assert code == WRONG and text.count("\n") == 1
    assert "Cannot write 'run/config.yaml' (No space left on device): make room, or give another place" in text
    assert not Path("run").exists()


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine that has none."""
    made = loop.Fabric

    def none(**options):
        if options["accelerator"] == "gpu":
            raise RuntimeError("No supported gpu backend found!")
        return made(**options)

    monkeypatch.setattr(loop, "Fabric", none)


def test_a_device_that_is_not_there_gets_one_sentence(csv, run, no_gpu):
    code, text = run("train", "forecast", csv, "--target", "y", "--device", "gpu", "-o", "run")
    assert code == WRONG and not Path("run").exists()
    assert text == "Error: device is 'gpu', which cannot be had here (No supported gpu backend found!): take cpu.\n"


def test_prediction_refuses_what_does_not_fit(csv, run):
    assert run("train", "forecast", csv, "--target", "y", "--time", "year", "--epochs", 1, "-o", "run")[0] == 0
    text = csv.read_text().splitlines(keepends=True)
    Path("short.csv").write_text("".join(text[:6]))
    code, said = run("predict", "run/model.safetensors", "short.csv")
    assert (code, said) == (
        WRONG,
        "Error: 'short.csv' has 5 rows, but the model reads the last 24: give at least as many.\n",
    )
    Path("other.csv").write_text("year,y\n" + "".join(f"{2 * k},1\n" for k in range(40)))
    code, said = run("predict", "run/model.safetensors", "other.csv")
    assert (code, said) == (
        WRONG,
        "Error: 'other.csv' has other steps of 'year' than the series that the model was trained on, which had one row "
        "every 1: give a series with the same steps.\n",
    )
    for steps in (0, 10**9):
        code, said = run("predict", "run/model.safetensors", csv, "--steps", steps)
        assert (code, said) == (WRONG, f"Error: steps is {steps}: expected 1 to 100,000.\n")
    Path("folder").mkdir()
    code, said = run("predict", "run/model.safetensors", csv, "-o", "folder")
    assert (code, said) == (WRONG, "Error: Cannot write 'folder': it is a folder; give the name of a file.\n")
    code, said = run("evaluate", "run/model.safetensors", csv, "-o", "e.json", "--report", "none/e.html")
    assert (code, said) == (WRONG, "Error: Cannot write 'none/e.html': there is no folder 'none'; make it first.\n")
    assert not Path("e.json").exists()
    code, said = run("predict", csv, csv)
    assert code == WRONG and said.startswith("Error: Cannot read 'wave.csv'")


def endless(csv: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error::UserWarning", "-c", "from openlstm.cli import main; main()"]
    command += ["train", "forecast", str(csv), "--target", "y", "--hidden", "4"]
    command += ["--epochs", "100000", "--patience", "100000", "-o", "run"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_ctrl_c_leaves_a_usable_model(csv, run):
    process = endless(csv)
    try:
        deadline = time.monotonic() + 60
        while not Path("run/model.safetensors").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Stopped by Ctrl-C in epoch" in said and "Traceback" not in said and "Lightning" not in said
    assert {path.name for path in Path("run").iterdir()} <= set(runs.WRITTEN)
    assert (Path("run") / "report.html").exists()
    assert json.loads(Path("run/metrics.json").read_text())["training"]["stopped"] == "interrupt"
    assert run("predict", "run/model.safetensors", csv)[0] == 0


def test_ctrl_c_gives_back_its_handler_and_the_best_weights():
    """The same inside one process: training ends, the handler is as before, and the caller goes on."""
    job, handler = Toy(TOY, [2.0, 1.0, 3.0]), signal.getsignal(signal.SIGINT)
    loss = job.loss

    def interrupted(batch):
        if len(job.seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return loss(batch)

    job.loss = interrupted  # type: ignore[method-assign]
    outcome = loop.train(job)
    assert (outcome.stopped, outcome.epochs, outcome.best_epoch) == ("interrupt", 3, 2)
    assert job.model[0].weight[0, 0].item() == job.seen[1]
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_before_the_first_epoch_leaves_nothing(csv, run, monkeypatch):
    monkeypatch.setattr(ForecastJob, "loss", lambda *_: signal.raise_signal(signal.SIGINT))
    code, text = run("train", "forecast", csv, "--target", "y", "-o", "run")
    assert (code, text) == (130, "Stopped before the first epoch was over: nothing is written.\n")
    assert not Path("run").exists()


def test_a_second_ctrl_c_says_what_is_there(csv, run, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("openlstm.train.forecast_plots.forecast_figure", interrupted)
    code, text = run("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    assert code == 130
    assert text.endswith("Stopped: the model is in run/model.safetensors, its report is not complete.\n")
    assert run("predict", "run/model.safetensors", csv)[0] == 0


def test_metrics_of_a_run_that_went_astray_are_json(csv, run, monkeypatch):
    train = loop.train

    def astray(*args: object, **options: object):
        outcome = train(*args, **options)  # type: ignore[arg-type]
        outcome.curve.append({name: float("nan") for name in outcome.curve[0]})
        return outcome

    monkeypatch.setattr(loop, "train", astray)
    code, text = run("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    assert code == 0, text
    metrics = json.loads(Path("run/metrics.json").read_text(), parse_constant=pytest.fail)  # NaN, Infinity
    assert list(metrics["training"]["curve"][1].values()) == [None, None]


def test_a_still_series_is_forecast_without_an_error(csv, run):
    csv.write_text("y\n" + "0.1\n" * 60)
    code, text = run("train", "forecast", csv, "--target", "y", "--epochs", 2, "--hidden", 4, "-o", "run")
    assert code == 0 and text.count("both exact") == 1, text
    code, text = run("predict", "run/model.safetensors", csv)
    assert text == "row,y\n60,0.1\n"


def test_a_run_goes_on_from_the_command_line(csv, run, monkeypatch):
    """Killed in its third epoch, and given the same command again with --resume."""
    monkeypatch.setattr(loop, "EVERY", 0.0)
    command = ("train", "forecast", csv, "--target", "y", "--hidden", 4, "--epochs", 5, "--resume")
    assert run(*command, "-o", "whole")[0] == 0
    score, count = ForecastJob.score, 0

    def dying(self):
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(5, "the power was cut")
        return score(self)

    monkeypatch.setattr(ForecastJob, "score", dying)
    code, text = run(*command, "-o", "cut")
    assert code == WRONG and "the power was cut" in text
    Path("cut/.last.ckpt.abc.tmp").touch()  # what a process leaves that is killed while it writes
    code, text = run(*command, "-o", "cut")
    assert code == 0 and "resumed after epoch 2" in text
    assert same(load("cut/model.safetensors"), load("whole/model.safetensors"))
    assert not list(Path("cut").glob(".*"))
    code, text = run("train", "forecast", csv, "--target", "y", "--hidden", 5, "--epochs", 5, "--resume", "-o", "cut")
    assert code == WRONG and "is of a run with hidden 4, now it is 5" in text
    csv.write_text(csv.read_text().replace("1900,", "1900,1"))
    code, text = run(*command, "-o", "cut")
    assert code == WRONG and "is of a run on other data" in text


def test_an_option_of_another_task_is_refused(csv, run):
    runs.fit(SMALL, [wave()]).model.save("m.safetensors")
    for command, option, value in (("predict", "--steps", 2), ("evaluate", "--last", 20)):
        assert run(command, "m.safetensors", csv, option, value)[0] == 0
    code, text = run("evaluate", "m.safetensors", csv, "--last", 1000)
    assert code == WRONG and text.startswith("Error: last is 1000: expected from the horizon, 1, to 112")


def test_a_model_file_that_does_not_fit_gets_one_sentence(tmp_path):
    path = tmp_path / "m.safetensors"
    runs.fit(SMALL, [wave()]).model.save(path)
    tensors, metadata = file.read(path)

    def message(tensors: dict, metadata: dict) -> str:
        file.write(path, tensors, metadata)
        with pytest.raises(ValueError) as error:
            load(path)
        return str(error.value).replace(str(path), "m")

    plain = {name: text for name, text in metadata.items() if name != "task"}
    assert message(tensors, plain) == (
        "'m' holds recurrent layers and no task: expected a model that `openlstm train` wrote"
    )
    about = json.loads(metadata["task"])
    assert message(tensors, metadata | {"task": json.dumps(about | {"task": "poetry"})}).startswith(
        "'m' is a model of the task 'poetry', expected one of forecast"
    )
    assert message(tensors, metadata | {"task": json.dumps(about | {"version": 99})}) == (
        "'m' has version 99 of a task, this openlstm reads 1: train it again"
    )
    for wrong in ("{", "[]", "{}"):
        assert message(tensors, metadata | {"task": wrong}) == "'m' holds a task that cannot be read: train it again"
    for wrong in ({"window": "8"}, {"columns": 3}, {"scaling": {"": [0, 0]}}, {"quantiles": [2]}, {"no": 1}):
        text = message(tensors, metadata | {"task": json.dumps(about | wrong)})
        assert text.startswith("'m' holds a task that this openlstm cannot use: "), text
    assert message({k: v for k, v in tensors.items() if k != "head.bias"}, metadata) == (
        "'m' does not fit its task: head.bias is missing, expected (1,)"
    )
    assert "weight_hh_l0" in message(tensors | {"recurrent.weight_hh_l0": np.zeros((2, 2))}, metadata)
    assert "float64" in message(tensors | {"head.bias": np.zeros(1)}, metadata)


@pytest.mark.parametrize("way", ["--overwrite", "--resume"])
@pytest.mark.parametrize("missing", [("--device", "gpu"), ("--precision", "16-mixed")])
def test_an_earlier_run_survives_what_cannot_be_had(csv, run, no_gpu, way, missing):
    command = ("train", "forecast", csv, "--target", "y", "--epochs", 1, "--hidden", 4, "-o", "run")
    assert run(*command)[0] == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert Path("run/model.safetensors") in before and Path("run/report.html") in before
    assert run(*command, way, *missing)[0] == WRONG
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
