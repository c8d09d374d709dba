"""`distcnn compare`: the step at which two runs first differ, by the digests of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distcnn.config_file import field_paths, value_at
from distcnn.errors import UsageError
from distcnn.run_directory.run import RunDirectory

# Of a machine, what has no part in the arithmetic.
_WITHOUT_EFFECT = {"host", "system", "cores", "memory_gib"}


@dataclass(frozen=True)
class Comparison:
    """Two runs, by the steps at which both have saved a checkpoint."""

    num_alike: int
    """Checkpoints with the same weights, before the first that differs."""
    last_alike: int | None
    """The step of the last one of them."""
    first_different: int | None
    """The first step at which the weights differ."""
    weights_sha256: tuple[str, str]
    """Of both, at the first step that differs, or else at the last one that is alike."""
    is_over: bool
    """Whether both have ended, at the same step."""
    differences: list[str]
    """What of their configs and of what they ran on is not alike."""

    @property
    def is_identical(self) -> bool:
        """Whether no difference has been seen."""
        return self.first_different is None

    def __str__(self) -> str:
        one, other = (digest[:16] for digest in self.weights_sha256)
        checkpoints = "1 checkpoint" if self.num_alike == 1 else f"{self.num_alike} checkpoints"
        alike = f"{checkpoints} alike, the last one at step {self.last_alike}"
        if self.first_different is not None:
            lines = [f"They first differ at step {self.first_different} (weights {one}, {other})"]
            lines.append(f"Before it: {alike}" if self.num_alike else "No checkpoint is alike")
        else:
            so_far = "" if self.is_over else " as far as both have come"
            lines = [f"Identical{so_far}: {alike} (weights {one})"]
        lines += [f"Not alike: {difference}" for difference in self.differences]
        return "\n".join(lines)


def compare(one: RunDirectory, other: RunDirectory) -> Comparison:
    """Compare two runs.

    Raises:
        UsageError: they have no step in common at which both have saved a checkpoint.
    """
    left, right = _digests(one), _digests(other)
    common = sorted(left.keys() & right.keys())
    if not common:
        raise UsageError(
            f"{one.path} and {other.path} have no checkpoint at the same step: these are at the"
            " ends of epochs, and at every training.checkpoint_every_steps"
        )
    different = next((step for step in common if _differ(left[step], right[step])), None)
    alike = [step for step in common if different is None or step < different]
    at = common[-1] if different is None else different
    has_ended = all((run.read_results() or {}).get("status") == "completed" for run in (one, other))
    return Comparison(
        num_alike=len(alike),
        last_alike=alike[-1] if alike else None,
        first_different=different,
        weights_sha256=(left[at][-1], right[at][-1]),
        is_over=has_ended and max(left) == max(right),
        differences=list(_differences(one, other)),
    )


def _digests(run: RunDirectory) -> dict[int, list[str]]:
    """The digests at each checkpoint, by step; what was repeated counts last.

    Of the weights that are kept, which may be an average; then of those that are trained.
    """
    saved = [event for event in run.read_events() if event["event"] == "checkpoint"]
    names = ("weights_sha256", "trained_sha256")
    found = {event["step"]: [event[name] for name in names if name in event] for event in saved}
    return {step: digests for step, digests in found.items() if digests}


def _differ(one: list[str], other: list[str]) -> bool:
    """By the digests that both have."""
    return any(left != right for left, right in zip(one, other, strict=False))


def _differences(one: RunDirectory, other: RunDirectory) -> Iterator[str]:
    configs = one.read_config().to_plain(), other.read_config().to_plain()
    for path in field_paths():
        if path.startswith(("recovery.", "storage.")) or path == "name":
            continue
        values = [value_at(config, path) for config in configs]
        if values[0] != values[1]:
            yield f"{path} ({values[0]}, {values[1]})"
    left, right = _ground(one), _ground(other)
    for part in left:
        if part in right and left[part] != right[part]:
            yield f"{part} ({left[part]}, {right[part]})"


def _ground(run: RunDirectory) -> dict[str, Any]:
    """What a run began on, as far as it bears on the last bits."""
    provenance = run.read_provenance()
    if provenance is None:
        return {}
    known = provenance["hardware"] | provenance["versions"]
    data = {"data": provenance["data"]["sha256"][:12]}
    return {part: value for part, value in known.items() if part not in _WITHOUT_EFFECT} | data
