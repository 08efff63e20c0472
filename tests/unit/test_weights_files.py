"""Files of weights as people have them: every wrapper loads, every other kind is named, nothing in a file runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import errno
import gzip
import os
import pathlib
import pickle
import tarfile
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lookonce.shared.errors import AccessError, CheckpointError, TeacherError, WeightsError
from lookonce.weights import file
from lookonce.weights.file import Weights, open_weights
from lookonce.weights.selection import Architecture

State = dict[str, Tensor]
NAME = "test_vit"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    found: nn.Module = timm.create_model(NAME, img_size=32)
    return found


@pytest.fixture(scope="module")
def state(model: nn.Module) -> State:
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def architecture(state: State) -> Architecture:
    return Architecture(name=NAME, tensors=state, any_shape=frozenset({"pos_embed"}), beside=("head.",))


def shifted(state: State, by: float = 1.0) -> State:
    return {name: value + by for name, value in state.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


class Settings(dict[str, Any]):
    """A configuration that is a dictionary, as EasyDict and CfgNode are."""


class Kind(enum.Enum):
    ONE = 1


class Odd:
    """An object whose state is no dictionary."""

    def __reduce__(self) -> Any:
        return (Odd, (), (1, 2, 3))


def filled_default() -> Any:
    filled = collections.defaultdict(list)
    filled["loss"].append(np.float32(1))
    return filled


BESIDE: dict[str, Callable[[], Any]] = {
    "NumPy scalar": lambda: np.float64(71.2),
    "NumPy array": lambda: {"lr": np.array([1.0]), "objects": np.array([{}, None], dtype=object)},
    "NumPy random state": lambda: np.random.RandomState(0).get_state(),
    "arguments with a path": lambda: argparse.Namespace(output_dir=pathlib.Path("x"), lr=0.1),
    "defaultdict": filled_default,
    "dictionary of a class of its own": lambda: Settings(a=1, b=Settings(c=[2])),
    "enum, date, namespace": lambda: [Kind.ONE, datetime.datetime(2024, 1, 1), types.SimpleNamespace(a=1)],
    "set, slice, deque, counter": lambda: [
        {1},
        frozenset([1]),
        slice(3),
        collections.deque([1]),
        collections.Counter("ab"),
    ],
    "object with a state of its own": Odd,
    "optimizer": lambda: torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=np.float64(0.1)).state_dict(),
}


def read(content: Any, path: Path, architecture: Architecture, **options: Any) -> Weights:
    torch.save(content, path, **options)
    return open_weights(path).fitting(architecture)


def same(weights: Weights, state: State) -> bool:
    return all(torch.equal(weights.state[name], value) for name, value in state.items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_holds_no_weights_is_skipped(
    beside: str, legacy: bool, state: State, architecture: Architecture, tmp_path: Path
) -> None:
    content = {"model": state, "beside": BESIDE[beside](), "epoch": 3}
    weights = read(content, tmp_path / "w.pth", architecture, _use_new_zipfile_serialization=not legacy)
    assert same(weights, state)


@pytest.mark.parametrize(
    ("wrap", "label"),
    [
        (lambda s: s, ""),
        (lambda s: {"params": s}, "params"),
        (lambda s: {"ema": s}, "ema"),
        (lambda s: {"state_dict": under("model.", s), "hyper_parameters": {"a": 1}}, "state_dict.model"),
        (lambda s: {"student": under("module.backbone.", s)}, "student.module.backbone"),
        (lambda s: under("_orig_mod.module.", s), "_orig_mod.module"),
        (lambda s: under("anything.at.all.", s), "anything.at.all"),
        (lambda s: (1, [{"a": {"b": s}}]), "1.0.a.b"),
        (lambda s: {**under("visual.", s), "text.blocks.0.norm1.weight": torch.ones(3)}, "visual"),
        (lambda s: {"model": s, "other": {"fc.weight": torch.ones(3)}}, "model"),
        (lambda s: {name: nn.Parameter(value) for name, value in s.items()}, ""),
    ],
)
def test_wrappers_and_prefixes_are_found_and_said(
    wrap: Callable[[State], Any], label: str, state: State, architecture: Architecture, tmp_path: Path
) -> None:
    weights = read(wrap(state), tmp_path / "w.pth", architecture)
    assert same(weights, state)
    assert weights.notes == ((f"{tmp_path / 'w.pth'}: the weights are those under '{label}'",) if label else ())


def test_a_pickled_model_gives_its_weights(
    model: nn.Module, state: State, architecture: Architecture, tmp_path: Path
) -> None:
    assert same(read(model, tmp_path / "whole.pth", architecture), state)
    assert same(read({"model": model.half(), "epoch": 1}, tmp_path / "in.pth", architecture), dict(model.state_dict()))
    model.float()


@pytest.mark.parametrize(
    ("wrap", "taken", "others"),
    [
        (lambda raw, ema: {"model": raw, "model_ema": ema}, "model_ema", ["model"]),
        (lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema}, "state_dict_ema", ["state_dict"]),
        (
            lambda raw, ema: {"student": under("backbone.", raw), "teacher": under("backbone.", ema)},
            "teacher.backbone",
            ["student.backbone"],
        ),
        (lambda raw, ema: {**under("net.", raw), **under("ema_net.", ema)}, "ema_net", ["net"]),
        (lambda raw, ema: {"b": ema, "a": raw}, "b", ["a"]),
    ],
)
def test_of_several_sets_the_average_is_taken_and_the_choice_is_said(
    wrap: Callable[[State, State], Any],
    taken: str,
    others: list[str],
    state: State,
    architecture: Architecture,
    tmp_path: Path,
) -> None:
    path, ema = tmp_path / "two.pth", shifted(state)
    weights = read(wrap(state, ema), path, architecture)
    assert same(weights, ema)
    (note,) = weights.notes
    assert f"has 2 sets of weights that fit: taking '{taken}'" in note
    assert f"not '{others[0]}' (two.pth#{others[0]} takes another)" in note
    assert same(open_weights(Path(f"{path}#{others[0]}")).fitting(architecture), state)
    with pytest.raises(WeightsError, match="has nothing under 'nowhere': found '"):
        open_weights(Path(f"{path}#nowhere")).fitting(architecture)


def test_only_sets_that_fit_are_candidates(state: State, architecture: Architecture, tmp_path: Path) -> None:
    larger = {name: torch.cat([value, value]) for name, value in state.items()}
    assert same(read({"ema": larger, "model": state}, tmp_path / "w.pth", architecture), state)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_conversion_is_said(kind: torch.dtype, state: State, architecture: Architecture, tmp_path: Path) -> None:
    weights = read({name: value.to(kind) for name, value in state.items()}, tmp_path / "w.pth", architecture)
    name = str(kind).removeprefix("torch.")
    assert weights.notes == (f"{tmp_path / 'w.pth'}: weights stored as {name} are converted to float32",)


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.int64, torch.float8_e4m3fn, torch.complex64])
def test_values_that_are_no_usable_floats_are_refused(
    kind: torch.dtype, state: State, architecture: Architecture, tmp_path: Path
) -> None:
    state = {**state, "norm.weight": state["norm.weight"].to(kind), "counter": torch.tensor(1)}
    del state["counter"]
    with pytest.raises(WeightsError, match=r"norm\.weight is of type \w+: expected floating-point numbers") as caught:
        read(state, tmp_path / "w.pth", architecture)
    assert str(tmp_path / "w.pth") in str(caught.value)


def test_a_checkpoint_with_the_suffix_of_safetensors(state: State, architecture: Architecture, tmp_path: Path) -> None:
    torch.save(dict(state), tmp_path / "w.pth")
    path = (tmp_path / "w.pth").rename(tmp_path / "w.safetensors")
    torch.testing.assert_close(open_weights(path).fitting(architecture).state["cls_token"], state["cls_token"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_mentioned(
    value: float, state: State, architecture: Architecture, tmp_path: Path
) -> None:
    (note,) = read({**state, "cls_token": torch.full((1, 1, 64), value)}, tmp_path / "w.pth", architecture).notes
    assert "cls_token contains NaN or infinity, as 1 of " in note


def write_zip(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "weights.py")


def write_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but files of it are about
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


ONNX = b"\x08\x07\x12\x07pytorch\x1a\x052.0.1" + bytes(20)
FOREIGN: list[tuple[str, bytes | Callable[[Path], object], str]] = [
    ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "Git LFS pointer.*git lfs pull"),
    ("w.pth", b"<!DOCTYPE html><html>404</html>", "a web page"),
    ("w.pth", b"\n  <HTML><body>log in", "a web page"),
    ("w.pth", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    ("w.pth", b'{"error": "Repository not found"}', "JSON text"),
    ("w.json", b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', "index of weights in several parts"),
    ("w.pth", b"Not Found, sorry", "a text file .*'Not Found, sorry'"),
    ("w.pth", b"", r"empty \(0 bytes\)"),
    ("w.pth", bytes(4096), "nothing but zeros"),
    ("w.bin", b"GGUF" + bytes(50), "GGUF"),
    ("w.bin", ONNX, "an ONNX model"),
    ("w.onnx", b"\x08\x08" + bytes(50), "an ONNX model"),
    ("saved_model.pb", b"\x08\x01\x12\x02xx", "a TensorFlow graph"),
    ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
    ("w.tflite", b"\x1c\x00\x00\x00TFL3" + bytes(50), "a TensorFlow Lite model"),
    ("checkpoint", b'model_checkpoint_path: "model.ckpt-1"', "TensorFlow checkpoint"),
    ("w.msgpack", b"\x81\xa6params\x81", "a Flax file"),
    ("w.pth", gzip.compress(b"x" * 1000), "compressed with gzip: unpack"),
    ("w.jpg", b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG image"),
    ("w.pth", b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x00\xff", "begins with the bytes 01 02 03"),
    ("w.npz", lambda path: np.savez(path, a=np.zeros(2)), r"a NumPy archive \(.npz"),
    ("w.npy", lambda path: np.save(path, np.zeros(2)), "a single NumPy array"),
    ("w.pt", write_script, "a TorchScript archive"),
    ("w.tar", write_tar, "a tar archive"),
    ("w.zip", write_zip("a/notes.txt"), r"a zip archive of other things \(a/notes.txt\)"),
    ("w.keras", write_zip("config.json", "model.weights.h5"), "Keras"),
    ("w.pkl", pickle.dumps({"a": 1}), "a Python pickle that torch.save did not write"),
]


@pytest.mark.parametrize(("name", "content", "says"), FOREIGN, ids=[says for *_, says in FOREIGN])
def test_other_kinds_of_files_are_named(
    name: str, content: bytes | Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(WeightsError, match=rf"cannot read the weights file .*{says}") as caught:
        open_weights(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert isinstance(caught.value, TeacherError)
    assert isinstance(caught.value, CheckpointError)


@pytest.mark.parametrize("kept", [4, 8, 9, 50, 3000, -1])
def test_a_file_that_is_cut_off_is_said_to_be(kept: int, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"truncated or damaged|is damaged or of another kind"):
        open_weights(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_checkpoint_that_is_cut_off_is_said_to_be(legacy: bool, state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "whole.pth").read_bytes()
    for kept in (len(whole) // 3, len(whole) - 30):
        (tmp_path / "cut.pth").write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match=r"cut off|truncated"):
            open_weights(tmp_path / "cut.pth")


class Malice:
    def __init__(self, function: Callable[..., Any], *arguments: str) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return (self.function, self.arguments)


@pytest.mark.parametrize("function", [os.system, eval, open, exec])
def test_files_that_would_run_something_are_refused_and_run_nothing(
    function: Callable[..., Any], state: State, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    argument = f"touch {trace}" if function is os.system else str(trace)
    torch.save({"model": state, "extra": Malice(function, argument)}, tmp_path / "malice.pth")
    with pytest.raises(WeightsError, match=r"contains code that would run on loading .*do not trust it"):
        open_weights(tmp_path / "malice.pth")
    assert not trace.exists()


def test_a_folder_gives_the_file_inside(state: State, architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="it is a folder without weights"):
        open_weights(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(WeightsError, match="folder of an unfinished run"):
        open_weights(tmp_path)
    torch.save(state, tmp_path / "only.pth")
    assert open_weights(tmp_path).path == tmp_path / "only.pth"
    torch.save(state, tmp_path / "second.pth")
    with pytest.raises(WeightsError, match=r"the folder contains 'only\.pth', 'second\.pth': give one of them"):
        open_weights(tmp_path)
    save_file(state, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path).fitting(architecture)
    assert same(weights, state)
    assert weights.notes == (f"taking {tmp_path / 'model.safetensors'}",)


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> str | None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    torch.save(state, tmp_path / "w.pth")
    monkeypatch.setattr(file, "foreign_kind", refuse)
    with pytest.raises(AccessError, match=r"w\.pth: cannot be read: Permission denied \(EACCES\)"):
        open_weights(tmp_path / "w.pth")
