"""Train on this machine: the first of the three uses, in plain Python to read, copy and change.

python launch/local.py                  # configs/local.yaml
python launch/local.py article training.epochs=3
"""

from __future__ import annotations

import sys

from distcnn import config_file
from distcnn.progress import watcher
from distcnn.summary import print_summary
from distcnn.training import local


def main() -> int:
    """Read a config, train it, show how it ended."""
    name, *overrides = sys.argv[1:] or ["local"]
    config = config_file.load(name, overrides)
    result = local.train(config, watcher())
    print_summary(result.run.path, result.results)
    return 0 if result.results["status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
