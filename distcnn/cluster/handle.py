"""What a job is called from everywhere: a handle, which every verb takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote, unquote

from distcnn.errors import UsageError

Target = Literal["local", "ray", "slurm", "kuberay"]

# Also the name of a RayJob, from which the operator makes longer ones.
ID = re.compile(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+")
# How many words stand between the target and the id: of ray the host, of kuberay the context and
# the namespace, of slurm the cluster.
_NUM_PLACES = {"local": 0, "ray": 1, "slurm": 1, "kuberay": 2}
_WRITTEN = {
    "local": "local://id",
    "ray": "ray://host:8265/id",
    "slurm": "slurm://cluster/123",
    "kuberay": "kuberay://context/namespace/name",
}


class HandleError(UsageError):
    """What was written is no handle."""


@dataclass(frozen=True)
class Handle:
    """Where a job is, and its name there."""

    target: Target
    places: tuple[str, ...]
    id: str

    def __str__(self) -> str:
        # A context's name may have anything in it, slashes too.
        words = [quote(place, safe=":@") for place in (*self.places, self.id)]
        return f"{self.target}://{'/'.join(words)}"

    @classmethod
    def parse(cls, text: str) -> Handle:
        """The handle that was written.

        Raises:
            HandleError: it is none.
        """
        target, separator, rest = text.partition("://")
        known = [name for name in get_args(Target) if name == target]
        if not separator or not known:
            raise HandleError(f"{text!r} is no handle; one is {', '.join(_WRITTEN.values())}")
        *places, id_ = [unquote(word) for word in rest.split("/")]
        is_whole = len(places) == _NUM_PLACES[target] and all(places)
        if not is_whole or not (_NUMBER if target == "slurm" else ID).fullmatch(id_):
            raise HandleError(f"{text!r} is no handle; it is written {_WRITTEN[target]}")
        return cls(known[0], tuple(places), id_)
