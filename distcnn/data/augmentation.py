"""Mirroring and shifting images: in training by random bits, in evaluation each way there is.

The bits are a function of (seed, epoch, sample): neither the batch that a sample stands in, nor
the device, nor what ran before changes what is done to it.
"""

from __future__ import annotations

import torch
from torch.nn import functional

# The increment and the multipliers of SplitMix64 (Steele, Lea, Flood, 2014), as signed numbers.
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def sample_bits(seed: int, epoch: int, ids: torch.Tensor) -> torch.Tensor:
    """63 random bits for each of the samples `ids`, int64 of shape `(N,)`."""
    key = _mix(_mix(torch.full_like(ids, seed)) ^ epoch)
    return _mix(key ^ ids) & (2**63 - 1)


def augment(images: torch.Tensor, bits: torch.Tensor, flip: bool, shift: int) -> torch.Tensor:
    """Mirror about half of the images and shift each by up to `shift` pixels along each axis.

    Args:
        images: uint8 of shape `(N, 1, 28, 28)`; where an image moves away, zeros come in.
        bits: `sample_bits` of those images.
        flip: whether to mirror.
        shift: the largest shift, in pixels.
    """
    if flip:
        mirrored = (bits & 1).bool()
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    if shift:
        images = _shift(images, bits, shift)
    return images


def views(images: torch.Tensor, flip: bool, shift: bool) -> list[torch.Tensor]:
    """What an evaluation averages over: images `(N, 1, 28, 28)`, themselves first.

    Args:
        images: of any type; where an image moves away, zeros come in.
        flip: whether to mirror each view.
        shift: whether to move the image by a pixel, up, down, left and right.
    """
    seen = [images]
    if shift:
        height, width = images.shape[-2:]
        padded = functional.pad(images, (1, 1, 1, 1))
        offsets = (0, 1), (2, 1), (1, 0), (1, 2)
        seen += [padded[..., top : top + height, left : left + width] for top, left in offsets]
    if flip:
        seen += [view.flip(-1) for view in seen]
    return seen


def _shift(images: torch.Tensor, bits: torch.Tensor, shift: int) -> torch.Tensor:
    size = images.shape[-1]
    window = torch.arange(size, device=images.device)
    # Two stretches of bits, neither of them the mirror's.
    rows = (bits >> 8 & 2**24 - 1) % (2 * shift + 1)
    columns = (bits >> 32 & 2**24 - 1) % (2 * shift + 1)
    padded = functional.pad(images, (shift, shift, shift, shift)).squeeze(1)
    return padded[
        torch.arange(len(images), device=images.device)[:, None, None],
        (rows[:, None] + window)[:, :, None],
        (columns[:, None] + window)[:, None, :],
    ].unsqueeze(1)


def _mix(values: torch.Tensor) -> torch.Tensor:
    """One step of SplitMix64 from each of `values`; int64 arithmetic wraps as it should."""
    values = values + _GOLDEN_GAMMA
    values = (values ^ _shift_right(values, 30)) * _MULTIPLIERS[0]
    values = (values ^ _shift_right(values, 27)) * _MULTIPLIERS[1]
    return values ^ _shift_right(values, 31)


def _shift_right(values: torch.Tensor, count: int) -> torch.Tensor:
    """Shift without dragging the sign along, as an unsigned shift does."""
    return (values >> count) & (2 ** (64 - count) - 1)
