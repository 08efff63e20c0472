"""The whole path on real images: teacher, cache, student, and its evaluation. Needs no download.

    python examples/demo.py [--out demo-out]

Writes the handwritten digits of scikit-learn as images, trains a small teacher, and runs the commands that users type.
Takes two minutes on two cores. The k-NN accuracy of the trained student should be far above that of the untrained one,
and near the teacher's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_digits import write_digits
from demo_step_time import StepTimes, measure_step_times
from demo_teacher import train_teacher

TEACHER = STUDENT = "test_vit"
"""timm's smallest vision transformer: 6 blocks, 64 channels."""

VIEW_SIZE = 64
TEACHER_EPOCHS = 24
STUDENT_EPOCHS = 40
BATCH = 128
MARK = ".lookonce-demo"
"""Marks a folder that this demo made and may replace."""


@dataclass(frozen=True)
class Demo:
    """Runs commands in the demo's folder."""

    folder: Path

    def run(self, command: str, *arguments: str) -> Any:
        """Print and run one of lookonce's commands; return its result."""
        print(f"\n$ {command} {' '.join(arguments)}", flush=True)
        program = Path(sys.executable).with_name(command)
        done = subprocess.run(
            [program, *arguments, "--json"], cwd=self.folder, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"demo: {command} ended with exit code {done.returncode}")
        return json.loads(done.stdout)

    def accuracy(self, *who: str) -> float:
        """Measure the k-NN accuracy, k = 10, of a student or teacher."""
        result = self.run("evaluate-student", "knn", *who, "--images", "digits", "--k", "10", "--pool", "cls+mean")
        share: float = result["accuracy"]["10"]
        print(f"{share:.1%} of {result['test_images']} test images right")
        return share


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="lookonce from end to end on handwritten digits, in two minutes.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-out"),
        help="folder; one of an earlier demo is replaced (default: demo-out)",
    )
    begun = time.perf_counter()
    demo = Demo(_new_folder(parser.parse_args().out))
    train, test = write_digits(demo.folder / "digits")
    print(f"{train} handwritten digits to train on and {test} to test on, in {demo.folder / 'digits'}")
    print(f"training a teacher, timm:{TEACHER}, on the spot ...", flush=True)
    weights = demo.folder / "teacher.safetensors"
    teacher = train_teacher(demo.folder / "digits", weights, name=TEACHER, view_size=VIEW_SIZE, epochs=TEACHER_EPOCHS)
    print(f"its classifier gets {teacher.accuracy:.1%} of the test images right, after {teacher.seconds:.0f} s")
    extracted, trained = extract_and_train(demo)
    accuracies = evaluate(demo)
    demo.run("feature-cache", "show", "cache", "--picture", "cache.png")
    print("\ntiming a step from the cache against the same step with the teacher online ...", flush=True)
    times = measure_step_times(demo.folder / "cache", f"timm:{TEACHER}", weights, STUDENT, BATCH)
    print(_table(extracted, trained, accuracies, times))
    print(f"pictures: {demo.folder / 'cache.png'}, {demo.folder / 'run' / 'alignment.png'}")
    print(f"the whole demo took {time.perf_counter() - begun:.0f} s")


def extract_and_train(demo: Demo) -> tuple[Any, Any]:
    """Run the two main commands."""
    extracted = demo.run(
        "extract-features",
        "--teacher",
        f"timm:{TEACHER}",
        "--teacher-weights",
        "teacher.safetensors",
        "--images",
        "digits/train",
        "--out",
        "cache",
        "--seeds",
        "0-3",
        "--view-size",
        str(VIEW_SIZE),
    )
    speed, size = extracted["views_per_second"], extracted["bytes"] / 1e6
    print(f"{extracted['views_written']} views at {speed:.0f}/s: {size:.1f} MB")
    trained = demo.run(
        "train-student",
        "--shards",
        "cache",
        "--out",
        "run",
        "--student",
        STUDENT,
        "--epochs",
        str(STUDENT_EPOCHS),
        "--batch-size",
        str(BATCH),
        "--base-lr",
        "4e-3",
    )
    print(f"{trained['steps']} steps, loss {trained['first_loss']:.3f} -> {trained['final_loss']:.3f}")
    return extracted, trained


def evaluate(demo: Demo) -> dict[str, float]:
    """k-NN accuracy of untrained student, trained student and teacher."""
    size = ("--view-size", str(VIEW_SIZE))
    return {
        "untrained student": demo.accuracy("--untrained", "--student", STUDENT, *size),
        "trained student": demo.accuracy("--weights", "run/student.safetensors"),
        "teacher": demo.accuracy("--teacher", f"timm:{TEACHER}", "--teacher-weights", "teacher.safetensors", *size),
    }


def _new_folder(folder: Path) -> Path:
    """Make an empty folder; replace one of an earlier demo and refuse any other."""
    if folder.exists():
        if not (folder / MARK).is_file() and any(folder.iterdir()):
            sys.exit(f"demo: {folder} contains other files; choose a new or empty folder with --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder.resolve()


def _table(extracted: Any, trained: Any, accuracies: dict[str, float], times: StepTimes) -> str:
    rows = [(f"k-NN accuracy, {who}", f"{share:.1%}") for who, share in accuracies.items()]
    rows += [
        ("extraction, 4 seeds", f"{extracted['views_per_second']:.0f} views/s, {extracted['bytes'] / 1e6:.1f} MB"),
        ("training from the cache", f"{trained['images_per_second']:.0f} images/s"),
        ("time the training waited for input", f"{trained['input_wait_share']:.1%}"),
        (f"a step of {BATCH} from the cache", f"{times.cached_ms:.0f} ms (loss {times.cached_loss:.4f})"),
        ("the same step, teacher online", f"{times.online_ms:.0f} ms (loss {times.online_loss:.4f})"),
        ("online over cached", f"{times.online_ms / times.cached_ms:.2f}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n" + "\n".join(f"{name:<{width}}  {value}" for name, value in rows) + "\n"


if __name__ == "__main__":
    main()
