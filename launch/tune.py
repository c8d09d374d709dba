"""Search run configs: the third of the three uses, in plain Python to read, copy and change.

python launch/tune.py                                       # on this machine, configs/tune.yaml
python launch/tune.py tune search=optuna training.epochs=3 num_trials=20
"""

from __future__ import annotations

import sys

from distcnn.orchestration.session import given_address
from distcnn.orchestration.tune import tune
from distcnn.sweep import file
from distcnn.sweep.summary import print_sweep
from distcnn.sweep.view import sweep_view


def main() -> int:
    """Read a sweep, run its trials as many at a time as there is room for, show the best."""
    name, *overrides = sys.argv[1:] or ["tune"]
    sweep = file.load(name, overrides)
    result = tune(sweep, sweep_view(), sweep_dir=None, address=given_address(None))
    print_sweep(result.directory, result.results)
    return 0 if result.results["status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
