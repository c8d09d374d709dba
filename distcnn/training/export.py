"""A run's chosen network as a file for other programs, checked against the original."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from distcnn.config import ModelConfig
from distcnn.data.dataset import class_names
from distcnn.data.module import to_float
from distcnn.errors import UsageError, UserError
from distcnn.files import regular_file, write_atomically
from distcnn.network import build_network
from distcnn.run_directory.run import RunDirectory
from distcnn.training.chosen import chosen_network

Format = Literal["onnx", "torch-export", "safetensors"]
_SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "safetensors": ".safetensors",
}
Scoring: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
About: TypeAlias = dict[str, str]

# Of the greatest score: float32 sums in another order differ by some 1e-6 of it.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Exported:
    """A network that has been written and checked.

    Attributes:
        path: of the file.
        num_images: on which it was compared with the original.
        difference: the greatest that was seen between two scores.
    """

    path: Path
    num_images: int
    difference: float


class _Scores(nn.Module):
    """Names what goes in and what comes out, for the formats that keep these names."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)


def export(run: RunDirectory, format: Format, path: Path | None = None) -> Exported:
    """Make a file of the network that a finished run has chosen; written if it computes the same.

    It takes float32 images `(N, 1, 28, 28)` in [0, 1], 0 the background, and gives scores
    `(N, 10)`, whose softmax are the class probabilities.

    Args:
        run: finished: it has the images to compare on.
        format: of the file.
        path: of the file; by default named as the run's folder, in the working directory. An
            existing regular file is replaced, at the end of symbolic links too; nothing else is.

    Raises:
        UserError: the run is not finished, a package is missing, or the file would compute
            something else.
        NotARegularFileError: `path` names a directory, a device, ...
    """
    path = path or Path(run.path.name + _SUFFIXES[format])
    with _errors_explained(path):  # Before the work; `write_atomically` checks again.
        if not regular_file(path).parent.is_dir():
            raise UsageError(f"cannot write {path}: its folder does not exist")
    network = chosen_network(run).kept_network
    predictions = run.read_predictions()
    if predictions is None:
        raise UserError(
            f"{run.path} is not finished, and only a finished run can be exported; go on with it"
            f" first: distcnn resume {run.path}"
        )
    pixels = np.concatenate([predictions.example_image[None], predictions.mistake_images])
    # One alone would be taken for a shape that is fixed.
    images = to_float(torch.from_numpy(pixels))[:, None].repeat(2, 1, 1, 1)
    config = run.read_config()
    model = config.model
    about = {
        "class_names": json.dumps(class_names(config.data.source)),
        "model": model.model_dump_json(),
    }
    write, read = _WAYS[format]
    content = write(network, images, about)
    with torch.inference_mode():
        expected, scores = network(images), read(content, model)(images)
    difference = float((scores - expected).abs().max())
    if difference > _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise UserError(
            f"{path} was not written: as {format}, the scores of {run.path} would differ by"
            f" {difference:.3g}; another version of torch or of the format's packages may do better"
        )
    with _errors_explained(path):
        write_atomically(path, content)
    return Exported(path, len(pixels), difference)


@contextmanager
def _errors_explained(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _write_safetensors(network: nn.Sequential, images: torch.Tensor, about: About) -> bytes:
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return save_safetensors(weights, metadata=about)


def _read_safetensors(content: bytes, model: ModelConfig) -> Scoring:
    network = build_network(model, seed=0).eval()
    network.load_state_dict(load_safetensors(content))
    return network


def _exported(network: nn.Sequential, images: torch.Tensor) -> torch.export.ExportedProgram:
    batch = {"images": {0: torch.export.Dim("batch", min=1)}}
    return torch.export.export(_Scores(network), (images,), dynamic_shapes=batch)


def _write_torch_export(network: nn.Sequential, images: torch.Tensor, about: About) -> bytes:
    file = BytesIO()
    program = _exported(network, images)
    program.example_inputs = None  # They would be pickled, and be these images.
    torch.export.save(program, file, extra_files=dict(about))
    return file.getvalue()


def _read_torch_export(content: bytes, model: ModelConfig) -> Scoring:
    return torch.export.load(BytesIO(content)).module()


def _write_onnx(network: nn.Sequential, images: torch.Tensor, about: About) -> bytes:
    _import_extra("onnxscript")
    program = torch.onnx.export(
        _exported(network, images),
        input_names=["images"],
        output_names=["scores"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(about)
    return program.model_proto.SerializeToString()


def _read_onnx(content: bytes, model: ModelConfig) -> Scoring:
    session = _import_extra("onnxruntime").InferenceSession(content)

    def scores(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["scores"], {"images": images.numpy()})[0])

    return scores


def _import_extra(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: pip install 'distcnn[onnx]'") from None


_WAYS: dict[Format, Any] = {
    "onnx": (_write_onnx, _read_onnx),
    "torch-export": (_write_torch_export, _read_torch_export),
    "safetensors": (_write_safetensors, _read_safetensors),
}
