"""The processes that train one run together, and all that they say to each other.

Whatever is added up here has one layout and one order from the first step to the last, so that the
same number of workers gives the same bits, resumed or not; and so does any number of them where the
order is one over shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from distcnn.collectives import Collectives
from distcnn.summation import Summation


@dataclass
class Workers:
    """One worker's view of all of them; alone unless told otherwise.

    Several have `collectives`, by which they are joined.
    """

    rank: int = 0
    """Of this worker, from 0."""
    count: int = 1
    collectives: Collectives | None = field(default=None, repr=False)
    _wishes_to_stop: bool = False
    _carried: torch.Tensor | None = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this worker writes for all."""
        return self.rank == 0

    def wish_to_stop(self) -> None:
        """Have all workers agree to stop; may be called by any of them, in any thread."""
        self._wishes_to_stop = True

    def agree_to_stop(self) -> bool:
        """Whether the workers have agreed to stop: the same answer on all, at the same step.

        Several workers agree by the sums of a step: a wish that came after the last one has to
        wait for the next. Waits for the device.
        """
        if self.count == 1:
            return self._wishes_to_stop
        return self._carried is not None and bool(self._carried)

    def tell_wishes(self, device: torch.device) -> None:
        """Have the workers agree on what they wish by now, without waiting for a step.

        Args:
            device: where the workers' tensors are.
        """
        if self.count > 1:
            wish = torch.tensor([float(self._wishes_to_stop)], device=device)
            self._carried = self.gather(wish).sum()

    def add_up(
        self, pieces: Iterable[Sequence[torch.Tensor]], summation: Summation
    ) -> list[torch.Tensor]:
        """The sum over all workers' pieces of each of some float32 tensors on one device.

        They travel as one vector, and a wish to stop travels with them.

        Args:
            pieces: of this worker, each taken when it is needed.
            summation: the order.
        """
        shapes: list[torch.Size] = []

        def vectors() -> Iterator[torch.Tensor]:
            wish = float(self._wishes_to_stop)
            for parts in pieces:
                shapes[:] = [part.shape for part in parts]
                flat = [part.reshape(-1) for part in parts]
                yield torch.cat([*flat, flat[0].new_full((1,), wish)])
                wish = 0.0

        rows = summation.add_own(self.rank, vectors())
        total = rows[0] if self.count == 1 else self._joined_by.add_up(rows, summation)
        *sums, carried = total.split([*(shape.numel() for shape in shapes), 1])
        if self.count > 1:
            self._carried = carried
        return [each.view(shape) for each, shape in zip(sums, shapes, strict=True)]

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """All workers' rows, `(n, ...)` each and n its own, in the order of their ranks."""
        return rows if self.count == 1 else self._joined_by.gather(rows)

    def broadcast(self, content: bytes | None) -> bytes | None:
        """The first worker's content, to all."""
        return content if self.count == 1 else self._joined_by.broadcast(content)

    def part(self) -> None:
        """Have nothing more to say to the others."""
        if self.collectives is not None:
            self.collectives.close()
            self.collectives = None

    @property
    def _joined_by(self) -> Collectives:
        assert self.collectives is not None, "several workers are joined by something"
        return self.collectives
