"""Durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.cluster.duration import DurationError, seconds, written


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("30m", 1800), ("4h", 14400), ("2d", 172800), ("1h30m", 5400), ("1d1s", 86401)],
)
def test_as_people_write_them(text, expected):
    assert seconds(text) == expected


@given(st.integers(1, 10**7))
def test_what_is_written_is_read_again(count):
    assert seconds(written(count)) == count


@pytest.mark.parametrize("text", ["", "4", "0s", "h", "4 h", "30m4h", "-1h", "1.5h", "04:00:00"])
def test_what_is_none(text):
    with pytest.raises(DurationError, match="write 90s, 30m, 4h, 2d or 1h30m"):
        seconds(text)
