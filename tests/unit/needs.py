"""What some tests need of a machine; each reason stands in `.ci/allowed-skips`."""

from __future__ import annotations

import pytest
import torch

from distcnn import onednn

needs_bfloat16 = pytest.mark.skipif(
    not onednn.supports(torch.bfloat16), reason="oneDNN has no bfloat16 on this CPU"
)
