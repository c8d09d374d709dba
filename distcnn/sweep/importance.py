"""How much each field of a sweep's space decides of how good a trial is."""

from __future__ import annotations

from distcnn.sweep.space import varied
from distcnn.sweep.study import Study

# With fewer, it says more of chance than of the fields.
_LEAST_TRIALS = 8


def importances(study: Study) -> dict[str, float] | None:
    """The share of each field in what tells the best tenth of the trials from all, most first.

    By PED-ANOVA (Watanabe and others, 2023), as Optuna has it; None where too few trials have a
    score.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from distcnn.sweep.search import frozen_trial

    space = varied(study.sweep.space)
    scored = [
        (trial, trial.score(study.sweep.config))
        for trial in study.ranking
        if trial.status != "failed" and trial.reports
    ]
    if len(scored) < _LEAST_TRIALS or not space:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    told = optuna.create_study()
    told.add_trials([frozen_trial(space, trial.values, score) for trial, score in scored])
    return get_param_importances(told, evaluator=PedAnovaImportanceEvaluator())
