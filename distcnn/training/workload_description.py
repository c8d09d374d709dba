"""`distcnn describe` of somebody's own module."""

from __future__ import annotations

from pytorch_lightning.utilities.model_summary.model_summary import ModelSummary

from distcnn import workload
from distcnn.config import RunConfig
from distcnn.user_code import shown_as_theirs


def describe_workload(config: RunConfig) -> str:
    """Its layers and their parameters, as Lightning has them.

    Raises:
        UserError: there is no such factory, or it raises.
    """
    assert config.workload is not None
    with shown_as_theirs(config.workload):
        return str(ModelSummary(workload.make(config).module, max_depth=-1))
