"""The first node of a job in Slurm, before there is anything to run."""

import os
import subprocess
import sys

from distcnn.cluster.slurm import AllocationState


def test_a_job_is_not_taken_up_more_often_than_asked(tmp_path):
    """As Slurm begins it for the third time, on its first node."""
    command = [sys.executable, "-m", "distcnn.orchestration.allocation"]
    command += ["--nodes=2", "--cpus=2", "--gpus=0", "--max-retries=1", str(tmp_path)]
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cluster.max_retries = 1 does not have it taken up again" in done.stderr
    assert AllocationState.read(tmp_path) == AllocationState("7", restarts=2, exit_code=1)
