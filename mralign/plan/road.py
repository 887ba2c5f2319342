"""Which stages a run has, in order: the only place that opens the stages of the rooms.

A configuration enters; its stages leave. What an objective does not use, and what nobody asks for, is no stage.
"""

from __future__ import annotations

from mralign.config import RunConfig
from mralign.rows.subjects import Subject
from mralign.run.stage import Stage


def stages(config: RunConfig) -> tuple[Stage, ...]:
    """The stages of this configuration, in order."""
    from mralign.annotation import agreement_stage as agreement
    from mralign.annotation import stage as annotation
    from mralign.questions import stage as questions
    from mralign.rollouts import import_stage
    from mralign.rollouts import stage as rollouts
    from mralign.training import stage as training
    from mralign.transitions import signal_stage
    from mralign.transitions import stage as transitions

    if not config.trains:
        return (questions.QUESTIONS_STAGE, *_evaluation(config, trained=False))
    road = [
        questions.QUESTIONS_STAGE,
        import_stage.IMPORT_STAGE if config.rollouts.import_on else rollouts.ROLLOUTS_STAGE,
        rollouts.CANDIDATES_STAGE,
        annotation.ANNOTATION_STAGE,
    ]
    objective = training.objective(config)
    if objective.weights:
        road += [transitions.COUNTS_STAGE, transitions.MATRICES_STAGE, transitions.WEIGHTS_STAGE]
        road.append(signal_stage.SIGNAL_STAGE)
    human = config.annotation.human is not None
    road += [agreement.HUMAN_STAGE] if human else []
    road += [transitions.annotators_stage(human=human), agreement.agreement_stage(human=human)]
    road.append(training.EXAMPLES_STAGE)
    if objective.reference:
        road.append(training.REFERENCE_STAGE)
    road.append(training.training_stage(objective))
    if config.questions.test or config.questions.dev:
        road += _evaluation(config, trained=True)
        road += _reannotation() if config.evaluation.reannotate else []
    return tuple(road)


def _evaluation(config: RunConfig, *, trained: bool) -> list[Stage]:
    """The stages that evaluate the model as it is, and with `trained` what was made of it."""
    from mralign.evaluation import evidence_stage, judgements_stage, predictions_stage, responses_stage
    from mralign.evaluation import stage as evaluation

    settings = config.evaluation
    road: list[Stage] = []
    if responses_stage.asks_with_snippets(settings.methods + (settings.trained_methods if trained else ())):
        road.append(evidence_stage.EVIDENCE_STAGE)
    subjects = list(Subject) if trained else [Subject.BASE]
    for subject in subjects:
        given = settings.predictions is not None
        road.append(
            predictions_stage.PREDICTIONS_STAGE if given else responses_stage.responses_stage(config, subject=subject)
        )
        if evaluation.judges(config):
            road.append(judgements_stage.judgements_stage(subject))
        road.append(evaluation.evaluation_stage(config, subject=subject))
    return road


def _reannotation() -> list[Stage]:
    """The stages that label thoughts of both models anew, for the change between their transition matrices."""
    from mralign.annotation import stage as annotation
    from mralign.rollouts import stage as rollouts
    from mralign.transitions import stage as transitions

    road: list[Stage] = []
    for subject in Subject:
        thoughts, labels = subject.stage("thoughts"), subject.stage("thoughts_annotation")
        counts = subject.stage("thoughts_counts")
        road += [
            rollouts.thoughts_stage(subject),
            annotation.annotation_of(thoughts, name=labels),
            transitions.counts_of(labels, name=counts),
            transitions.matrix_of(labels, counts=counts, name=subject.stage("thoughts_matrices")),
        ]
    return road
