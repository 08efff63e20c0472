"""Bad input to train-student: exit code 1 (2 for usage), one sentence that names what is wrong, nothing lost."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lookonce.commands.train_student import main
from lookonce.shared.errors import CheckpointError, NumericalError, StorageError
from lookonce.train.checkpoints.checkpoint_file import VERSION, load_checkpoint
from lookonce.train.config import TrainingConfig
from lookonce.train.loop.trainer import Trainer
from lookonce.train.records.metrics import MetricsLog, read_metrics
from lookonce.train.setup import set_up

TINY = ["--student=test_vit", "--layer-weights=top2", "--epochs=2", "--batch-size=4", "--device=cpu", "--log-steps=1"]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run train-student in this process; its exit code and what it printed on standard error."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        code = left.value.code
        assert isinstance(code, int)
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return code, " ".join(error.split())

    return run


def fails(result: tuple[int, str], *parts: str, code: int = 1) -> None:
    """The exit code, exactly one sentence of error, and in it every part."""
    assert result[0] == code, result[1]
    assert result[1].count("error:") == 1
    assert "unexpected" not in result[1]
    for part in parts:
        assert part in result[1]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestCache:
    def test_no_cache(self, command, tmp_path):
        (tmp_path / "empty").mkdir()
        for where in ("empty", "missing"):
            fails(command("--shards", tmp_path / where, "--out", tmp_path / "run", *TINY), where)
        assert not (tmp_path / "run").exists()

    def test_no_receipts(self, command, training_cache, tmp_path):
        cache = training_cache()
        shutil.rmtree(cache / "receipts")
        fails(command("--shards", cache, "--out", tmp_path / "run", *TINY), "no shard has a receipt")

    def test_incomplete_seed(self, command, training_cache, tmp_path):
        cache = training_cache()
        (cache / "receipts" / "seed-0001" / "shard-00002.json").unlink()
        fails(command("--shards", cache, "--out", tmp_path / "run", *TINY), "seed 1 has no receipt for 1 of 3 shards")
        assert command("--shards", cache, "--out", tmp_path / "run", "--seeds=0", *TINY)[0] == 0

    def test_seed_that_is_not_there(self, command, training_cache, tmp_path):
        fails(command("--shards", training_cache(), "--out", tmp_path / "run", "--seeds=7", *TINY), "seed 7", "0, 1")

    @pytest.mark.parametrize("array", ["targets", "pixels", "importance", "key"])
    def test_truncated_object(self, command, training_cache, tmp_path, array):
        cache = training_cache()
        victim = self.object_of(cache, array)
        victim.write_bytes(victim.read_bytes()[:-5])
        fails(command("--shards", cache, "--out", tmp_path / "run", *TINY), str(victim), array, "bytes")

    @pytest.mark.parametrize("array", ["targets", "pixels", "importance", "key"])
    def test_changed_byte(self, command, training_cache, tmp_path, array):
        cache = training_cache()
        victim = self.object_of(cache, array)
        data = bytearray(victim.read_bytes())
        data[len(data) // 3] ^= 1
        victim.write_bytes(data)
        fails(command("--shards", cache, "--out", tmp_path / "run", *TINY), str(victim), "digest")

    def test_missing_object(self, command, training_cache, tmp_path):
        cache = training_cache()
        victim = self.object_of(cache, "targets")
        victim.unlink()
        fails(command("--shards", cache, "--out", tmp_path / "run", *TINY), str(victim), "there is no such file")
        assert not (tmp_path / "run").exists(), "found before the first step"

    def test_damage_met_in_mid_run_keeps_the_steps_done(self, command, training_cache, tmp_path):
        cache = training_cache()
        victim = self.object_of(cache, "targets", 1)
        good = victim.read_bytes()
        victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))  # of the same size: found when it is read
        run = tmp_path / "run"
        fails(command("--shards", cache, "--out", run, "--workers=4", *TINY), str(victim))
        assert list((run / "checkpoints").glob("step-*.pt"))  # epoch 0 saw seed 0 alone, which is whole
        victim.write_bytes(good)
        assert command("--shards", cache, "--out", run, *TINY)[0] == 0
        assert command("--shards", cache, "--out", tmp_path / "whole", *TINY)[0] == 0
        assert (run / "student.safetensors").read_bytes() == (tmp_path / "whole" / "student.safetensors").read_bytes()

    def test_other_schema_version(self, command, training_cache, tmp_path):
        cache = training_cache()
        manifest = json.loads((cache / "manifest.json").read_text())
        manifest["schema_version"] = 3
        (cache / "manifest.json").write_text(json.dumps(manifest))
        fails(
            command("--shards", cache, "--out", tmp_path / "run", *TINY),
            "schema version 3 is not known",
            "versions 1 and 2",
        )

    def test_nothing_left_to_train_on(self, command, training_cache, tmp_path):
        cache = training_cache(holes=tuple(range(11)))
        fails(command("--shards", cache, "--out", tmp_path / "run", *TINY), "no sample is readable in every cache")

    @staticmethod
    def object_of(cache: Path, array: str, seed: int = 0) -> Path:
        """File of the array's first shard, by its receipt."""
        receipt = json.loads((cache / "receipts" / f"seed-{seed:04d}" / "shard-00000.json").read_text())
        return cache / next(item["path"] for item in receipt["objects"] if item["array"] == array)


class TestStudent:
    def test_patch_size_that_does_not_fit(self, command, training_cache, tmp_path):
        cache = training_cache(patch_size=8)
        result = command("--shards", cache, "--out", tmp_path / "run", *TINY)
        fails(result, "patches of 8 px", "test_vit has patches of 16 px", "--patch-size 16")

    def test_unknown_student(self, command, training_cache, tmp_path):
        cache = training_cache()
        result = command("--shards", cache, "--out", tmp_path / "run", *TINY, "--student=vit_base")
        fails(result, "timm has no model 'vit_base' (did you mean vit_base_", code=2)

    def test_layers_that_the_cache_does_not_hold(self, command, training_cache, tmp_path):
        cache = training_cache()
        result = command("--shards", cache, "--out", tmp_path / "run", *TINY, "--layer-weights=top3")
        fails(result, "blocks 2 are not in this cache", "has blocks 3, 4 of 4")

    def test_layerwise_with_other_depth(self, command, training_cache, tmp_path):
        cache = training_cache()
        result = command("--shards", cache, "--out", tmp_path / "run", *TINY, "--alignment=layerwise")
        fails(result, "6 blocks", "teacher 4", code=2)


class TestArguments:
    @pytest.mark.parametrize(
        ("argument", "said"),
        [
            ("--mask-ratio=1", "--mask-ratio 1"),
            ("--mask-ratio=nan", "--mask-ratio nan"),
            ("--epochs=0", "--epochs 0"),
            ("--batch-size=-1", "--batch-size -1"),
            ("--base-lr=-1", "--base-lr -1"),
            ("--drop-path=1", "--drop-path 1"),
            ("--layer-weights=middle", "unknown layer weights 'middle'"),
            ("--seeds=3-1", "--seeds '3-1'"),
            ("--loss-scale=0", "--loss-scale 0.0: must be above 0"),
        ],
    )
    def test_out_of_range(self, command, tmp_path, argument, said):
        fails(command("--shards", tmp_path, "--out", tmp_path / "run", argument), said, code=2)

    def test_weights_for_other_caches(self, command, tmp_path):
        arguments = ("--shards", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "run", "--teacher-loss-weights")
        fails(command(*arguments, "1"), "1 weights for 2 caches", code=2)
        fails(command(*arguments, "1", "0"), "must be above 0", code=2)

    @pytest.mark.parametrize("argument", ["--mask=both", "--precision=fp8", "--no-such-flag=1", "--epochs=many"])
    def test_not_a_choice(self, command, tmp_path, argument):
        code, error = command("--shards", tmp_path, "--out", tmp_path / "run", argument)
        assert code == 2
        assert argument.split("=")[0] in error


class TestOut:
    def test_a_file(self, command, training_cache, tmp_path):
        (tmp_path / "run").write_text("mine")
        fails(command("--shards", training_cache(), "--out", tmp_path / "run", *TINY), "is a file", code=2)
        assert (tmp_path / "run").read_text() == "mine"

    def test_a_folder_of_something_else(self, command, training_cache, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.jpg").write_text("mine")
        result = command("--shards", training_cache(), "--out", tmp_path / "photos", *TINY)
        fails(result, "contains other files (a.jpg) and no config.json of a run", code=2)
        assert snapshot(tmp_path / "photos") == {"a.jpg": b"mine"}

    @pytest.mark.parametrize("config", ['{"model_type": "clip"}', '{"evaluation": "linear"}', "[]"])
    def test_a_folder_whose_config_is_of_something_else(self, command, training_cache, tmp_path, config):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text(config)
        result = command("--shards", training_cache(), "--out", tmp_path / "model", *TINY)
        fails(result, "no config.json of a run", code=2)
        assert snapshot(tmp_path / "model") == {"config.json": config.encode()}

    def test_a_student_whose_checkpoints_are_gone_is_not_trained_over_by_another_run(
        self, command, training_cache, tmp_path
    ):
        arguments = ("--shards", training_cache(), "--out", tmp_path / "run", *TINY)
        assert command(*arguments)[0] == 0
        shutil.rmtree(tmp_path / "run" / "checkpoints")
        before = snapshot(tmp_path / "run")
        fails(command(*arguments, "--seed=3"), "the student of another run (seed: the run has 0, now 3)")
        (tmp_path / "run" / "config.json").write_text("")
        fails(command(*arguments), "a config.json that cannot be read")
        (tmp_path / "run" / "config.json").write_bytes(before["config.json"])
        assert snapshot(tmp_path / "run") == before
        assert command(*arguments)[0] == 0  # the same run again, which ends as it did
        assert (tmp_path / "run" / "student.safetensors").read_bytes() == before["student.safetensors"]

    def test_the_cache_itself_or_a_folder_in_it(self, command, training_cache, tmp_path):
        cache, other = training_cache(), training_cache("other")
        before = snapshot(cache)
        for out in (cache, cache / "run"):
            fails(command("--shards", cache, "--out", out, *TINY), "feature cache", code=2)
        fails(command("--shards", other, "--out", cache, *TINY), "feature cache", code=2)
        assert snapshot(cache) == before

    def test_never_resume_leaves_a_run_alone(self, command, training_cache, tmp_path):
        arguments = ("--shards", training_cache(), "--out", tmp_path / "run", *TINY)
        assert command(*arguments, "--resume=never")[0] == 0
        before = snapshot(tmp_path / "run")
        fails(command(*arguments, "--resume=never"), "contains a run already", code=2)
        assert snapshot(tmp_path / "run") == before


class TestCheckpoints:
    def test_of_another_run(self, command, training_cache, tmp_path):
        arguments = ("--shards", training_cache(), "--out", tmp_path / "run", *TINY)
        assert command(*arguments, "--max-steps=2")[0] == 0
        before = snapshot(tmp_path / "run")
        result = command(*arguments, "--mask=random", "--base-lr=0.5")
        fails(result, "base_lr: the run has 0.00015, now 0.5", "mask: the run has 'attentive', now 'random'")
        other = ("--shards", training_cache("other", width=12), *arguments[2:])
        fails(command(*other), "belongs to another run", "data.cache_fingerprint", "data.cache_encoding")
        coarser = ("--shards", training_cache("coarser", precision="int4"), *arguments[2:])
        fails(
            command(*coarser),
            "belongs to another run (data.cache_precisions: the run has ['int8'], now ['int4']; data.",
        )
        assert snapshot(tmp_path / "run") == before

    @pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
    def test_unreadable(self, command, training_cache, tmp_path, damage):
        arguments = ("--shards", training_cache(), "--out", tmp_path / "run", *TINY)
        assert command(*arguments, "--max-steps=2", "--checkpoint-steps=1")[0] == 0
        newest = tmp_path / "run" / "checkpoints" / "step-000000002.pt"
        newest.write_bytes(newest.read_bytes()[:-1000] if damage is None else damage)
        fails(command(*arguments), str(newest), "cannot be read as a checkpoint", "--resume FILE")
        older = newest.with_name("step-000000001.pt")
        assert command(*arguments, "--resume", older)[0] == 0

    @pytest.mark.parametrize(("name", "kind"), [("config", 3), ("data", None), ("state", [1]), ("step", "2")])
    def test_of_another_kind(self, tmp_path, name, kind):
        fields = {"version": VERSION, "step": 2, "config": {}, "data": {}, "state": {}}
        path = tmp_path / "step-000000002.pt"
        torch.save(fields, path)
        assert load_checkpoint(path).step == 2
        torch.save({**fields, name: kind}, path)
        with pytest.raises(CheckpointError, match=f"cannot be read as a checkpoint .{name} is of type"):
            load_checkpoint(path)

    @pytest.mark.parametrize("lost", ["module", "optimizer", "average", "parameter", "moments"])
    def test_without_a_part_of_the_state(self, command, training_cache, tmp_path, lost):
        arguments = ("--shards", training_cache(), "--out", tmp_path / "run", "--ema=0.9", *TINY)
        assert command(*arguments, "--max-steps=2")[0] == 0
        newest = tmp_path / "run" / "checkpoints" / "step-000000002.pt"
        content = torch.load(newest, weights_only=True)
        if lost == "parameter":
            content["state"]["module"]["student.model.cls_token"] = torch.zeros(1, 1, 3)
        elif lost == "moments":
            content["state"]["optimizer"]["param_groups"].pop()
        else:
            del content["state"][lost]
        torch.save(content, newest)
        fails(command(*arguments), str(newest), "does not contain the parameters of this run")

    def test_that_is_something_else(self, command, training_cache, tmp_path):
        """Nobody is advised to delete it: it may be the finished student."""
        cache, run = training_cache(), tmp_path / "run"
        arguments = ("--shards", cache, "--out", run, *TINY)
        assert command(*arguments)[0] == 0
        for name, content in {
            "page.pt": b"<!DOCTYPE html><html>",
            "lfs.pt": b"version https://git-lfs.github.com/spec/v1\noid",
            "0.pt": b"",
            "notes.txt": b"hello",
            "cut.pt": (run / "checkpoints" / "step-000000006.pt").read_bytes()[:5000],
        }.items():
            (tmp_path / name).write_bytes(content)
        torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
        before = snapshot(tmp_path)
        for path, named in {
            run / "student.safetensors": "the student of a finished run, weights alone",
            run: f"the folder of a run, whose newest checkpoint is {run}/checkpoints/step-000000006.pt",
            run / "config.json": "JSON text",
            cache: "a feature cache",
            tmp_path / "page.pt": "a web page (HTML or XML)",
            tmp_path / "lfs.pt": "a Git LFS pointer",
            tmp_path / "0.pt": "empty (0 bytes)",
            tmp_path / "notes.txt": "a text file",
            tmp_path / "cut.pt": "a zip archive, as torch checkpoints are, whose end is missing",
            tmp_path / "weights.pt": "a file of torch.save by another program, or weights alone",
        }.items():
            result = command(*arguments, f"--resume={path}")
            fails(result, f"{path}: is no checkpoint of train-student: it is {named}", "give --resume a file or folder")
            assert "delete" not in result[1]
        assert snapshot(tmp_path) == before

    def test_that_is_not_there(self, command, training_cache, tmp_path):
        result = command("--shards", training_cache(), "--out", tmp_path / "run", *TINY, "--resume=nowhere.pt")
        fails(result, "nowhere.pt: no such checkpoint")

    def test_disk_full(self, command, training_cache, tmp_path):
        arguments = ("--shards", training_cache(), "--out", tmp_path / "run", *TINY)
        assert command(*arguments, "--max-steps=2")[0] == 0
        before = snapshot(tmp_path / "run" / "checkpoints")
        with largest_file(200_000):
            fails(command(*arguments), "step-000000006.pt", "writing failed", "run the same command again")
        assert snapshot(tmp_path / "run" / "checkpoints") == before
        assert command(*arguments)[0] == 0


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writes past ``size`` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestDivergence:
    def test_not_a_number_stops_and_keeps_the_last_good_checkpoint(self, command, training_cache, tmp_path):
        run = tmp_path / "run"
        arguments = ("--shards", training_cache(), "--out", run, *TINY, "--base-lr=1e30", "--warmup-epochs=0")
        result = command(*arguments, "--checkpoint-steps=1")
        fails(result, "the loss of step 1 is", "last good checkpoint was kept", "--base-lr")
        # the state after step 0 gives no finite loss: it was never written
        assert not list(run.glob("checkpoints/*"))
        assert not (run / "student.safetensors").exists()
        assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == [0]

    def test_parameters_are_looked_at_before_the_closing_checkpoint(self, training_cache, tmp_path):
        config = TrainingConfig(
            shards=(training_cache(),), out=tmp_path, student="test_vit", layer_weights="top2", max_steps=1
        )
        trainer = Trainer(config, set_up(config), config.document())

        class Poisoning(torch.optim.SGD):
            """Leaves a student that the loss of the same step does not show."""

            def step(self, closure=None):
                self.param_groups[0]["params"][0].data.fill_(float("nan"))

        trainer.state.optimizer = Poisoning(trainer.state.module.parameters())
        log = MetricsLog(tmp_path, first_step=0)
        with contextlib.closing(log), pytest.raises(NumericalError, match="is not finite after step 0"):
            trainer.train(log, tmp_path / "checkpoints", show_progress=False)
        assert not (tmp_path / "checkpoints").exists()


def test_a_picture_that_cannot_be_written_costs_no_checkpoint(training_cache, tmp_path):
    class FullDisk(MetricsLog):
        def write_images(self, step, images):
            raise StorageError("no space for W's picture")

    config = TrainingConfig(
        shards=(training_cache(),), out=tmp_path, student="test_vit", layer_weights="top2", max_steps=1
    )
    log = FullDisk(tmp_path, first_step=0)
    with contextlib.closing(log), pytest.raises(StorageError, match="no space"):
        Trainer(config, set_up(config), config.document()).train(log, tmp_path / "checkpoints", show_progress=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001.pt"]


def test_epochs_fewer_than_warm_up_still_train(command, training_cache, tmp_path):
    assert command("--shards", training_cache(), "--out", tmp_path / "run", *TINY, "--epochs=1")[0] == 0
    rates = [line["lr"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert len(rates) == 3
    assert max(rates) == pytest.approx(1.5e-4 * 4 / 256)  # the peak is reached, not warm-up alone


def test_what_a_run_leaves_without_effect_is_told(command, training_cache, tmp_path):
    cache = training_cache()
    arguments = ("--shards", cache, "--out", tmp_path / "run", *TINY, f"--images={tmp_path}", "--parallel=fsdp")
    code, said = command(*arguments, "--max-steps=1")
    assert code == 0, said
    assert f"note: --images {tmp_path} is not used: {cache} contains the views" in said
    assert "note: --parallel fsdp changes nothing: the run has one process" in said
