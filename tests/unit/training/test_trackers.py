import pytest

from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.training import trackers


def test_a_tracker_that_is_not_installed_is_told_before_anything_starts(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    trackers.check_installed(RunConfig())
    with pytest.raises(UserError, match=r"names mlflow, which is not .* 'distcnn\[mlflow\]'"):
        trackers.check_installed(RunConfig().with_values(training={"trackers": ("mlflow",)}))
