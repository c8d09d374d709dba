"""Train on many workers: the second of the three uses, in plain Python to read, copy and change.

python launch/cluster.py                                    # on this machine, configs/cluster.yaml
RAY_ADDRESS=auto python launch/cluster.py cluster workers.count=8     # on the cluster's head
"""

from __future__ import annotations

import sys

from distcnn import config_file
from distcnn.orchestration.launch import launch
from distcnn.orchestration.session import given_address
from distcnn.progress import watcher
from distcnn.summary import print_summary


def main() -> int:
    """Read a config, train it on the workers it asks for, show how it ended."""
    name, *overrides = sys.argv[1:] or ["cluster"]
    config = config_file.load(name, overrides)
    result = launch(config, watcher(), run_dir=None, address=given_address(None))
    print_summary(result.run.path, result.results)
    return 0 if result.results["status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
