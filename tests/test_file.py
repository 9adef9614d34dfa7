"""The model file: whole or not at all, and one clear error for whatever is not a file of ours."""

import os
import pickle
import stat
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import openlstm
from openlstm import file
from openlstm.spec import Spec

SPEC = Spec.parse("lstm(2, 3; peephole=diagonal)")
ARRAYS = {name: np.full(shape, 0.5, np.float32) for name, shape in SPEC.parameters.items()}
METADATA = {"spec": str(SPEC)}


@pytest.fixture
def path(tmp_path):
    file.write(tmp_path / "m.safetensors", ARRAYS, METADATA)
    return tmp_path / "m.safetensors"


def test_numpy_round_trip_without_torch(path):
    arrays, metadata = file.read(path)
    assert metadata == {"openlstm": file.VERSION, **METADATA} and file.read_spec(path, metadata) == SPEC
    assert file.read_metadata(path) == metadata
    file.match(path, SPEC, arrays)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)


def error(path):
    with pytest.raises(ValueError) as found:
        openlstm.load(path)
    return str(found.value)


def test_no_such_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^There is no model file '.*none': give the path of one that openlstm.save or "
    ):
        openlstm.load(tmp_path / "none")


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 60, -1])
def test_truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    assert error(path).startswith(f"Cannot read '{path}': expected a complete safetensors file")


def test_foreign(path):
    path.write_bytes(pickle.dumps({"weight": [1.0]}))
    assert error(path).startswith(f"Cannot read '{path}': expected a complete safetensors file")
    save_file(ARRAYS, path)
    assert error(path) == (
        f"'{path}' is a safetensors file, but not one of openlstm: its metadata has no 'openlstm'; "
        "build the module by hand and load the tensors as its state_dict"
    )


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"openlstm": "2"}, "has format '2': this openlstm reads '1'; update openlstm"),
        ({"spec": "lstm(2, 4; peephole=diagonal)"}, "does not fit its spec lstm(2, 4; peephole=diagonal): "),
        ({"spec": "gru(2, 3)"}, "does not fit its spec gru(2, 3): "),
        ({"spec": "lstm(2, 3)"}, "weight_ch_l0 is (9,), expected no such parameter"),
        ({"spec": "lstm(2, 3; peephole=diagonal, layer_norm)"}, "is missing, expected ("),
        ({"spec": "lstm(2, 999999999999; peephole=diagonal)"}, "does not fit its spec"),
        ({"spec": "__import__('os')"}, "holds a spec that this openlstm cannot use: Cannot read the spec"),
        ({"spec": "transformer(2, 3)"}, "holds a spec that this openlstm cannot use: Unknown cell 'transformer'"),
        ({"spec": "lstm(2, -3)"}, "holds a spec that this openlstm cannot use: Cannot read the spec"),
    ],
)
def test_hostile_or_wrong_metadata(path, metadata, message):
    file.write(path, ARRAYS, {**METADATA, **metadata})
    assert message in error(path)


def test_no_spec_and_no_floats(path):
    file.write(path, ARRAYS, {"other": "1"})
    assert error(path) == f"'{path}' holds no spec: its metadata has openlstm, other"
    file.write(path, ARRAYS | {"bias_hh_l0": np.zeros(12, np.int32)}, METADATA)
    assert error(path) == f"'{path}': bias_hh_l0 is of type torch.int32, expected a floating type"


@settings(
    max_examples=int(os.environ.get("OPENLSTM_FUZZ", 300)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_mutated_files_give_one_error_or_a_module(path, data):
    original = path.read_bytes()
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        # The header, which is what is parsed, and the rest alike.
        end = data.draw(st.sampled_from([8, len(original) // 2, len(original)]))
        position = data.draw(st.integers(0, min(end, len(mutated)) - 1))
        kind = data.draw(st.sampled_from(["change", "delete", "insert"]))
        if kind == "change":
            mutated[position] = data.draw(st.integers(0, 255))
        elif kind == "delete" and len(mutated) > 1:
            del mutated[position]
        else:
            mutated[position:position] = data.draw(st.binary(min_size=1, max_size=4))
    broken = path.with_name("broken")
    broken.write_bytes(mutated)
    try:
        module = openlstm.load(broken)
    except ValueError as found:
        assert "broken'" in str(found) and "\n" not in str(found)
    else:
        assert module.spec.parameters.keys() == module.state_dict().keys()


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        OSError, match=r"^Cannot write '.*' \(No space left on device\): make room, or give another place$"
    ):
        file.write(path, {"x": np.zeros(3)}, {})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_folder_without_rights_is_named_by_the_file(path, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied", ".hidden.tmp")

    monkeypatch.setattr(file, "open", fail, raising=False)
    with pytest.raises(PermissionError) as error:
        file.write(path, {"x": np.zeros(3)}, {})
    assert str(error.value) == f"Cannot write '{path}' (Permission denied): give another place"


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^Cannot write '.*m': there is no folder '.*none'; make it first$"):
        file.write(tmp_path / "none" / "m", ARRAYS, METADATA)


def test_a_killed_write_leaves_the_old_file_or_the_new(path):
    """Processes are killed while they write over and over; whatever is there is whole each time."""
    code = (
        "import sys, numpy as np; from openlstm import file\n"
        "print('go', flush=True)\n"
        "while True: file.write(sys.argv[1], {'x': np.zeros(200_000)}, {'spec': 'lstm(1, 1)'})\n"
    )
    for wait in (0.0, 0.003, 0.01, 0.02):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
        arrays, _ = file.read(path)
        assert arrays.keys() in (ARRAYS.keys(), {"x"})


@pytest.mark.skipif(os.name != "posix", reason="rights of files as POSIX has them")
def test_rights_are_those_of_a_plain_file(path):
    old = os.umask(0o027)
    try:
        file.write(path, ARRAYS, METADATA)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
