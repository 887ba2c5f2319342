"""Two annotators' steps become one list of final steps (method.md §2a).

Two opinions of one trajectory (`StepLabels`, validated) enter, the final steps of schema.STEP leave, each with the rule
that decided it. Steps are aligned on base segments, consolidated by rules 1 and 2, and what stays open goes to the
adjudicator in ONE call for the whole trajectory, so that an LLM adjudicator reads the thought once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER, Taxonomy

Span = tuple[int, int]  # first and last segment, inclusive
Adjudicate = Callable[[Sequence[Span]], Sequence[StepLabels]]

EQUAL = "equal"  # rule 1
INTERSECTION = "intersection"  # rule 2: the common label, completed by a confident one
CONFIDENT = "confident"  # rule 2: no common label, two confident ones
ADJUDICATED = "adjudicated"  # rule 3
UNLABELLED = "unlabelled"  # rule 3 found no label either
DISTILLED = "distilled"  # the panel was not asked: a labeller that learned from one (cascade.py)


@dataclass(frozen=True)
class FinalStep:
    """One row of schema.STEP: the labels (highest confidence first) and where they come from."""

    first_segment: int
    last_segment: int
    labels: tuple[str, ...]
    confidences: tuple[float, ...]
    rule: str
    labels_a: tuple[str, ...]
    confidences_a: tuple[float, ...]
    labels_b: tuple[str, ...]
    confidences_b: tuple[float, ...]


def validate(steps: Sequence[StepLabels], *, segments: int, taxonomy: Taxonomy) -> str | None:
    """First fault of an annotator's steps over `segments` base segments, or None (method.md §2a, validation).

    The text says what was given and what is allowed: it is quoted in the repair request.
    """
    expected = 0
    for number, step in enumerate(steps):
        if step.first_segment != expected:
            return (
                f"step {number} begins at segment {step.first_segment!r:.20}, expected {expected}: steps must be "
                f"ascending, disjoint and cover every segment from 0 to {segments - 1}"
            )
        if not step.first_segment <= step.last_segment < segments:
            return (
                f"step {number} ends at segment {step.last_segment!r:.20}; "
                f"allowed are {step.first_segment} to {segments - 1}"
            )
        fault = label_fault(step, taxonomy=taxonomy)
        if fault:
            return f"step {number} {fault}"
        expected = step.last_segment + 1
    if expected != segments:
        return f"segments {expected} to {segments - 1} are in no step; every segment must be in exactly one"
    return None


def label_fault(step: StepLabels, *, taxonomy: Taxonomy) -> str | None:
    """What is wrong with one step's labels and confidences, or None (method.md §2a, validation)."""
    unknown = [label for label in step.labels if label not in taxonomy.labels]
    if unknown:
        return f"has unknown labels {unknown!r:.150}; allowed are {list(taxonomy.labels)}"
    if len(step.labels) > 2 or len(set(step.labels)) < len(step.labels):
        return f"has labels {list(step.labels)!r:.150}; allowed are at most two different ones"
    if len(step.confidences) != len(step.labels):
        return f"has {len(step.confidences)} confidences for {len(step.labels)} labels; allowed is one each"
    bad = [value for value in step.confidences if not 0 <= value <= 10]  # NaN fails every comparison
    if bad:
        return f"has confidences {bad}; allowed are numbers from 0 to 10"
    return None


def align(a: Sequence[StepLabels], b: Sequence[StepLabels], *, segments: int) -> list[tuple[StepLabels, StepLabels]]:
    """Final spans, each with A's and B's labels for it (method.md §2a, our alignment).

    Two neighbouring segments share a final step only if both annotators put them in one step. So a final step lies
    inside ONE step of each annotator, and the union of that annotator's labels over its segments is that step's labels.
    """
    owner_a, owner_b = by_segment(a), by_segment(b)
    assert len(owner_a) == len(owner_b) == segments
    starts = sorted({step.first_segment for step in (*a, *b)})
    pairs = []
    for first, end in zip(starts, [*starts, segments][1:], strict=True):
        left = _cut(owner_a[first], first=first, last=end - 1)
        right = _cut(owner_b[first], first=first, last=end - 1)
        pairs.append((left, right))
    return pairs


def by_segment(steps: Sequence[StepLabels]) -> list[StepLabels]:
    """The step of each segment; `steps` are a partition, in order."""
    owners: list[StepLabels] = []
    for step in steps:
        owners += [step] * (step.last_segment - step.first_segment + 1)
    return owners


def _cut(step: StepLabels, *, first: int, last: int) -> StepLabels:
    """The part of a step over segments first..last."""
    return StepLabels(first, last, step.labels, step.confidences)


def consolidate(a: StepLabels, *, b: StepLabels, taxonomy: Taxonomy, threshold: float = 7.0) -> FinalStep | None:
    """Rules 1 and 2 for one aligned step; None where it must go to the adjudicator (method.md §2a).

    Since |L_A|, |L_B| <= 2, unequal sets share at most one label: rule 2 always needs a confident one to settle a step.
    """
    conf_a = dict(zip(a.labels, a.confidences, strict=True))
    conf_b = dict(zip(b.labels, b.confidences, strict=True))
    if conf_a and conf_a.keys() == conf_b.keys():  # 1. L_A = L_B != {}: accept, confidences of A
        return _final(a, b=b, chosen=conf_a, rule=EQUAL, taxonomy=taxonomy)
    higher = {}
    for label in conf_a.keys() | conf_b.keys():
        higher[label] = max(conf_a.get(label, 0.0), conf_b.get(label, 0.0))
    common = [label for label in higher if label in conf_a and label in conf_b]  # 2. keep the intersection ...
    single = {label: value for label, value in higher.items() if label not in common and value > threshold}
    kept = (common + _rank(single, taxonomy=taxonomy))[:2]  # ... and add confident labels until two
    if len(kept) < 2:
        return None  # 3. the adjudicator's
    rule = INTERSECTION if common else CONFIDENT
    return _final(a, b=b, chosen={label: higher[label] for label in kept}, rule=rule, taxonomy=taxonomy)


def disputes(
    a: Sequence[StepLabels], b: Sequence[StepLabels], *, segments: int, taxonomy: Taxonomy, threshold: float = 7.0
) -> list[tuple[StepLabels, StepLabels]]:
    """The final steps that rules 1 and 2 leave open, each with A's and B's labels: what the adjudicator is asked."""
    pairs = align(a, b, segments=segments)
    return [pair for pair in pairs if consolidate(pair[0], b=pair[1], taxonomy=taxonomy, threshold=threshold) is None]


def consensus(
    a: Sequence[StepLabels],
    b: Sequence[StepLabels],
    *,
    segments: int,
    taxonomy: Taxonomy = PAPER,
    adjudicate: Adjudicate | None = None,
    threshold: float = 7.0,
) -> list[FinalStep]:
    """Final steps of one trajectory (docs/method.md §2a, alignment and rules 1-3).

    `a` and `b`: the steps of two annotators over the same base segments 0 .. `segments` - 1. `adjudicate` gets the
    disputed spans of the trajectory in one call and returns one StepLabels a span, in order; it is not called when
    nothing is disputed. Without one, disputed steps stay without labels. Raises ValueError if an annotator's steps or
    the adjudicator's answer are invalid.

    >>> import mralign
    >>> a = [mralign.StepLabels(0, 0, ("framing",), (9.0,)), mralign.StepLabels(1, 2, ("retrieval",), (8.0,))]
    >>> b = [mralign.StepLabels(0, 0, ("framing",), (6.0,)), mralign.StepLabels(1, 2, ("comparison",), (7.5,))]
    >>> [(step.labels, step.rule) for step in mralign.consensus(a, b, segments=3)]
    [(('framing',), 'equal'), (('retrieval', 'comparison'), 'confident')]
    """
    for name, steps in (("A", a), ("B", b)):
        fault = validate(steps, segments=segments, taxonomy=taxonomy)
        if fault:
            raise ValueError(f"annotator {name}: {fault}; validate its reply and quarantine the row before consensus")
    pairs = align(a, b, segments=segments)
    drafts = [consolidate(left, b=right, taxonomy=taxonomy, threshold=threshold) for left, right in pairs]
    disputed = [pair for pair, draft in zip(pairs, drafts, strict=True) if draft is None]
    spans = [(left.first_segment, left.last_segment) for left, _ in disputed]
    ask = adjudicate or _nobody
    verdicts = iter(_checked(ask(spans), spans=spans, taxonomy=taxonomy) if spans else ())
    final = []
    for (left, right), draft in zip(pairs, drafts, strict=True):
        final.append(draft or _adjudicated(left, b=right, verdict=next(verdicts), taxonomy=taxonomy))
    return final


def _nobody(spans: Sequence[Span]) -> list[StepLabels]:
    """The verdicts where there is no adjudicator: no label."""
    return [StepLabels(first, last, (), ()) for first, last in spans]


def _checked(verdicts: Sequence[StepLabels], *, spans: Sequence[Span], taxonomy: Taxonomy) -> Sequence[StepLabels]:
    """The adjudicator's answers if they are one valid verdict a span, in order; else ValueError."""
    given = [(verdict.first_segment, verdict.last_segment) for verdict in verdicts]
    if given != list(spans):
        raise ValueError(f"adjudicator answered for spans {given}; it was asked for {list(spans)}, in this order")
    for span, verdict in zip(spans, verdicts, strict=True):
        fault = label_fault(verdict, taxonomy=taxonomy)
        if fault:
            raise ValueError(f"adjudicator: span {span} {fault}; quarantine the row with the raw reply")
    return verdicts


def _adjudicated(a: StepLabels, *, b: StepLabels, verdict: StepLabels, taxonomy: Taxonomy) -> FinalStep:
    """Rule 3: the adjudicator's labels are final; none leaves the step unlabelled (our choice)."""
    chosen = dict(zip(verdict.labels, verdict.confidences, strict=True))
    return _final(a, b=b, chosen=chosen, rule=ADJUDICATED if chosen else UNLABELLED, taxonomy=taxonomy)


def _final(a: StepLabels, *, b: StepLabels, chosen: Mapping[str, float], rule: str, taxonomy: Taxonomy) -> FinalStep:
    """The final step with the chosen labels, highest confidence first."""
    labels, confidences = _ranked(chosen, taxonomy=taxonomy)
    labels_a, confidences_a = _ranked(dict(zip(a.labels, a.confidences, strict=True)), taxonomy=taxonomy)
    labels_b, confidences_b = _ranked(dict(zip(b.labels, b.confidences, strict=True)), taxonomy=taxonomy)
    return FinalStep(
        first_segment=a.first_segment,
        last_segment=a.last_segment,
        labels=labels,
        confidences=confidences,
        rule=rule,
        labels_a=labels_a,
        confidences_a=confidences_a,
        labels_b=labels_b,
        confidences_b=confidences_b,
    )


def _ranked(confidences: Mapping[str, float], *, taxonomy: Taxonomy) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Labels and confidences, highest confidence first."""
    labels = _rank(confidences, taxonomy=taxonomy)
    return tuple(labels), tuple(confidences[label] for label in labels)


def _rank(confidences: Mapping[str, float], *, taxonomy: Taxonomy) -> list[str]:
    """Labels by confidence, highest first; ties in taxonomy order."""
    return sorted(confidences, key=lambda label: (-confidences[label], taxonomy.index(label)))
