"""Confidence intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.training.evaluation import wilson_interval


def test_a_published_value() -> None:
    """15 of 20, as in Newcombe (1998): 0.531 to 0.888."""
    assert wilson_interval(0.75, 20) == pytest.approx((0.5313, 0.8881), abs=1e-4)


@given(count=st.integers(1, 10**6), data=st.data())
def test_it_holds_the_share_and_stays_within_0_and_1(count: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, count)) / count
    low, high = wilson_interval(share, count)
    assert -1e-12 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1 + 1e-12
