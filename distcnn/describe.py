"""`distcnn describe`: the article's table of a config's network, as text."""

from __future__ import annotations

from distcnn.config import RunConfig

_HEADINGS = ("Layer", "Hyperparameters", "Input", "Output", "Parameters", "Multiply-adds")
_NUMERIC_COLUMNS = (4, 5)


def describe(config: RunConfig) -> str:
    """Each layer's hyperparameters, volumes, parameters and multiply-adds for one image."""
    layers = config.model.layers
    rows = [
        (
            layer.name,
            layer.hyperparameters,
            str(layer.input),
            str(layer.output),
            f"{layer.num_parameters:,}",
            f"{layer.multiply_adds:,}",
        )
        for layer in layers
    ]
    total = (
        "Total",
        "",
        str(layers[0].input),
        str(layers[-1].output),
        f"{sum(layer.num_parameters for layer in layers):,}",
        f"{sum(layer.multiply_adds for layer in layers):,}",
    )
    legend = "k kernels, F width of the window, S stride, P zero padding; volumes W x H x D"
    return f"{_align([_HEADINGS, *rows, total])}\n\n{legend}"


def _align(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join(
            cell.rjust(width) if column in _NUMERIC_COLUMNS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(len(line) for line in lines)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
