"""All that annotation needs, resolved once on the driver and sent to whoever does the work.

A `RunConfig` enters `resolve_annotation`; a `ResolvedAnnotation` leaves: who has which role, with which taxonomy, and
which engines every trajectory goes through, each once however many annotators share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mralign.annotation.cues import RuleBook, load_rule_book
from mralign.annotation.instruction import AnnotatorInstruction
from mralign.annotation.labeller import Labeller
from mralign.annotation.labeller_file import read_labeller
from mralign.annotation.taxonomy import PAPER, Taxonomy, load_taxonomy
from mralign.annotation.template import read_template
from mralign.asking.annotator import ResolvedAnnotator, resolve
from mralign.config import Annotation, Annotator, RunConfig, resolve_path

ANNOTATORS = ("first", "second")
ADJUDICATOR = "adjudicator"
ROLES = (*ANNOTATORS, ADJUDICATOR)
Roles = tuple[str, ...]


@dataclass(frozen=True)
class ResolvedAnnotation:
    """By role: the annotator's name, and its chat model, rule book or labeller; and how two opinions become one."""

    names: Mapping[str, str]
    chats: Mapping[str, ResolvedAnnotator]
    books: Mapping[str, RuleBook]
    taxonomy: Taxonomy
    threshold: float
    show_answers: bool
    template: str | None = None  # the user's instruction of the two annotators
    labellers: Mapping[str, Labeller] = field(default_factory=dict)
    cascade: Labeller | None = None  # labels what the panel is not asked about
    asked: frozenset[str] = frozenset()  # in a cascade: row_ids of the trajectories that the panel is asked about

    @property
    def instruction(self) -> AnnotatorInstruction:
        """What the two annotators are told."""
        return AnnotatorInstruction(self.taxonomy, self.show_answers, self.template)

    @property
    def engines(self) -> list[Roles]:
        """See `plan_engines`."""
        return plan_engines({role: annotator.engine_key for role, annotator in self.chats.items()})

    @property
    def twins(self) -> bool:
        """Whether both annotators are asked the same and cannot but say the same."""
        asked = []
        for role in ANNOTATORS:
            annotator = self.chats.get(role)
            if annotator is None or annotator.decoding.temperature:
                return False
            asked.append(replace(annotator, name="", seed=0))
        return asked[0] == asked[1]

    @property
    def labellers_by_name(self) -> dict[str, Labeller]:
        """By the annotator's name, and `cascade`, every labeller that says how far it can be trusted."""
        found = {self.names[role]: labeller for role, labeller in self.labellers.items()}
        if self.cascade is not None:
            found["cascade"] = self.cascade
        return {name: labeller for name, labeller in found.items() if labeller.report}

    def left(self, row_id: str) -> Labeller | None:
        """Who labels a trajectory in place of the panel; None: the panel is asked."""
        return None if row_id in self.asked else self.cascade

    def served(self, roles: Roles) -> ResolvedAnnotator:
        """One of the annotators that share the engine of these roles."""
        return next(annotator for role, annotator in self.chats.items() if role in roles)


def plan_engines(engine_keys: Mapping[str, str]) -> list[Roles]:
    """The roles that are asked at each engine, engine by engine; `engine_keys` by role, without the cue phrases.

    The last engine is where opinions become one: the adjudicator's, or, if it has none, the last annotator's. The cue
    phrases, which need no engine, are asked there as well. No engine at all where everybody is cue phrases.
    """
    if not engine_keys:
        return []
    last = engine_keys[max(engine_keys, key=ROLES.index)]
    before = [engine_keys[role] for role in ANNOTATORS if engine_keys.get(role, last) != last]
    order = [*dict.fromkeys(before), last]
    return [_roles_at(key, engine_keys=engine_keys, last=last) for key in order]


def _roles_at(key: str, *, engine_keys: Mapping[str, str], last: str) -> Roles:
    return tuple(role for role in ROLES if engine_keys.get(role, last) == key)


def roles_of(settings: Annotation) -> dict[str, Annotator]:
    """The configured annotators by role."""
    return dict(zip(ROLES, (*settings.annotators, settings.adjudicator), strict=True))


def taxonomy_of(settings: Annotation) -> Taxonomy:
    """The taxonomy of this run: the paper's, or the user's file."""
    return load_taxonomy(resolve_path(settings.taxonomy)) if settings.taxonomy else PAPER


def resolve_annotation(config: RunConfig) -> ResolvedAnnotation:
    """What the section `annotation` comes to. Reads rule books, the taxonomy, and the models' files for digests."""
    settings = config.annotation
    roles = roles_of(settings)
    books = {role: load_rule_book(resolve_path(a.rule_book)) for role, a in roles.items() if a.rule_book}
    return ResolvedAnnotation(
        names={role: annotator.name for role, annotator in roles.items()},
        chats={role: resolve(a, config=config) for role, a in roles.items() if a.is_chat},
        books=books,
        taxonomy=taxonomy_of(settings),
        threshold=settings.threshold,
        show_answers=settings.show_answers,
        template=read_template(settings),
        labellers={role: read_labeller(resolve_path(a.labeller)) for role, a in roles.items() if a.labeller},
        cascade=read_labeller(resolve_path(settings.cascade.labeller)) if settings.cascade else None,
    )
