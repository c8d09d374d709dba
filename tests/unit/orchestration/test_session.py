"""Which cluster a launch runs on."""

from __future__ import annotations

import pytest

from distcnn.errors import UserError
from distcnn.orchestration.session import given_address


@pytest.mark.parametrize(
    ("option", "variable", "address"),
    [
        (None, None, None),
        (None, "", None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", None, "auto"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("local", "10.0.0.1:6379", None),
        (None, "local", None),
        ("auto", "ray://10.0.0.1:10001", "auto"),
    ],
)
def test_the_option_goes_before_the_variable(
    monkeypatch: pytest.MonkeyPatch, option: str | None, variable: str | None, address: str | None
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert given_address(option) == address


@pytest.mark.parametrize("by_option", [True, False])
def test_ray_client_is_refused_with_what_to_do_instead(
    monkeypatch: pytest.MonkeyPatch, by_option: bool
) -> None:
    address = "ray://10.0.0.1:10001"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379" if by_option else address)
    with pytest.raises(UserError, match=r"ray://10\.0\.0\.1:10001.*--address auto"):
        given_address(address if by_option else None)
