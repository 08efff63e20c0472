"""What a training run did, and how it is printed; no torch here, as a Ray actor without torch passes it on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lookonce.shared.printing import Result


@dataclass(frozen=True)
class TrainingSummary(Result):
    """What a run did."""

    run: str
    student_file: str | None
    """``student.safetensors``; None when ``--max-steps`` ended the run before its schedule did."""
    steps: int
    total_steps: int
    resumed_from_step: int
    first_loss: float | None
    """Loss of the first logged step; None when ``metrics.jsonl`` of a finished run is gone."""
    final_loss: float | None
    """Loss of the last logged step."""
    seconds: float
    images_per_second: float | None
    """Median over the steps that this call logged; None when it logged none."""
    input_wait_share: float | None
    """Share of the time spent waiting for input, 0 to 1; median over the same steps."""
    note: str | None
    """What the user should know about the run and its caches, such as samples left out; None when there is nothing."""

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        return asdict(self)

    def text(self) -> str:
        """Lines for people."""
        reached = f"step {self.steps} of {self.total_steps}"
        if self.final_loss is not None:
            reached += f", loss {self.first_loss:.4f} -> {self.final_loss:.4f}"
        if self.images_per_second is not None:
            waited = f"{self.input_wait_share:.1%} of the time waiting for input"
            reached += f", {self.images_per_second:.1f} images/s, {waited}"
        lines = [reached, f"run      {self.run}"]
        if self.student_file:
            lines.append(f"student  {self.student_file}")
        else:
            lines.append("--max-steps ended this call before the schedule; to resume, raise it or leave it out")
        if self.note:
            lines.append(f"note     {self.note}")
        return "\n".join(lines)


@dataclass(frozen=True)
class SweepSummary(Result):
    """What a sweep did."""

    runs: dict[str, TrainingSummary]
    """By name; a run that diverged reports the last step it reached."""
    errors: dict[str, str]
    """Why runs ended early, by name."""

    @property
    def exit_code(self) -> int:
        """1 when a run failed."""
        return int(bool(self.errors))

    def document(self) -> dict[str, Any]:
        """JSON-compatible."""
        runs = {name: {**run.document(), "error": self.errors.get(name)} for name, run in self.runs.items()}
        return {"runs": runs, "exit_code": self.exit_code}

    def text(self) -> str:
        """Lines for people."""
        parts = [f"{len(self.runs)} runs, which took turns: the images/s of each count the time of all"]
        for name, run in self.runs.items():
            error = f"\nerror    {self.errors[name]}" if name in self.errors else ""
            parts.append(f"{name}: {run.text()}{error}")
        return "\n".join(parts)
