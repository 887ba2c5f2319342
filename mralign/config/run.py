"""The configuration of a run: a section per room, and what holds for all of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mralign.config.data import Candidates, Questions, Rollouts, Source
from mralign.config.evaluation import Evaluation
from mralign.config.labelling import Annotation, Annotator, Discovery
from mralign.config.learning import Examples, Training, Transitions, Weights
from mralign.config.models import Engine, Http, Model
from mralign.config.section import Repeated, Section, Speed


class Run(Section):
    """Where the run lives and what holds for all of it."""

    dir: Speed[str] = Field(
        "runs/default",
        description="Directory of everything that the run makes: a local path, or a URI such as s3://bucket/run or "
        "gs://bucket/run. On "
        "a cluster all nodes must see it. Another directory begins anew.",
    )
    seed: int = Field(
        0, ge=0, description="Seed of every draw, order and sample of the run. Another one gives a repetition."
    )
    reject_limit: Speed[float] = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of its rows that a stage may put aside before it fails. Raise it when you have looked at "
        "the rejects.",
    )
    lost_limit: Speed[float] = Field(
        0,
        ge=0,
        le=1,
        description="Share of its rows that a stage may give up because an endpoint does not answer them; 0: none, "
        "the next run asks them again.",
    )
    overlap: Speed[bool] = Field(
        False,
        description="Ask annotators that are endpoints about candidates while further questions are sampled. Each is "
        "asked the same, once, either way; the plan says where it is of no use.",
    )
    gpu_memory_gib: Speed[float | None] = Field(
        None,
        gt=0,
        description="Memory of one GPU where the run will be, by which a plan says what fits; null: that of the GPUs "
        "of this machine, or 80 where it has none.",
    )
    local_cpus: Speed[int] = Field(
        6,
        ge=2,
        description="Logical CPUs of the local Ray that is started where no cluster is given; how many tasks run at "
        "once. It may exceed the real number.",
    )
    patience_s: Speed[float] = Field(
        3600,
        gt=0,
        description="Seconds that a stage on a cluster waits for nodes before the run ends. It says what is missing; "
        "the same command goes on.",
    )
    rounds: Repeated[int] = Field(
        1,
        ge=1,
        description="How often to align. In each later round the policy of the round before is sampled, labelled and "
        "trained on, in run.dir/round-2 and so on. Above 1 it needs questions.dev.",
    )
    round_reference: Repeated[Literal["fixed", "moving"]] = Field(
        "fixed",
        description="pi_ref of later rounds: the model before the first round, or the policy that the round begins "
        "with.",
    )
    round_gain: Repeated[float | None] = Field(
        0.0,
        ge=-1,
        le=1,
        description="A round is followed by another only if the lower end of the interval of its gain in Acc on dev "
        "(a share, paired by question, at evaluation.level) is above this; null: always.",
    )
    round_questions: Repeated[dict[int, tuple[Source, ...]]] = Field(
        default_factory=dict,
        description="Training questions of later rounds by the number of the round; a round that is not named has "
        "questions.train again.",
        exclude_if=lambda sources: not sources,
    )

    @field_validator("dir")
    @classmethod
    def _dir_is_a_place(cls, given: str) -> str:
        scheme, there, rest = given.partition("://")
        user, at, _ = rest.partition("/")[0].rpartition("@")
        if there and at and ":" in user:  # without a password it may be a container of Azure, or gs://anonymous@
            raise ValueError(
                f"{scheme}://...@: a user and a password stand in every file that names the run; give them by the "
                "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        place, _, options = given.partition("?")
        if there and (options or "#" in given):
            raise ValueError(
                f"{place}?...: options behind the path are not taken here, since the directories of stages follow it; "
                "set AWS_REGION, AWS_ENDPOINT_URL or what else the store reads from the environment, on all nodes"
            )
        return given

    @model_validator(mode="after")
    def _questions_of_later_rounds(self) -> Run:
        unknown = [number for number in self.round_questions if not 2 <= number <= self.rounds]
        if unknown:
            raise ValueError(
                f"round_questions names the rounds {unknown}; allowed are 2 to rounds={self.rounds}, and the first has "
                f"questions.train"
            )
        for number, sources in self.round_questions.items():
            names = [source.name for source in sources]
            if not names:
                raise ValueError(
                    f"round_questions names no source for round {number}; give one, or leave the round out for "
                    f"questions.train again"
                )
            if len(set(names)) < len(names):
                raise ValueError(
                    f"round_questions names {names} for round {number}: two sources share a name, so ids could "
                    f"collide; name them differently"
                )
        return self


class RunConfig(Section):
    """Everything a run needs to know."""

    run: Run = Field(Run(), description="Where the run lives, its seed, and what it tolerates.")
    model: Model = Field(Model(), description="The model that is aligned or evaluated.")
    questions: Questions = Field(Questions(), description="The questions to train on and to evaluate with.")
    engine: Engine = Field(
        Engine(), description="How vLLM serves the model; annotators and judges use it where they name no `serving`."
    )
    http: Http = Field(
        Http(), description="An OpenAI-compatible endpoint; used where an engine is http and names no other."
    )
    rollouts: Rollouts = Field(
        Rollouts(),
        description="How every question is asked with and without thinking, or where such answers come from.",
    )
    candidates: Candidates = Field(Candidates(), description="Which thoughts are trained on.")
    annotation: Annotation = Field(
        Annotation(), description="Who labels the steps of thoughts, and with which strategies."
    )
    discovery: Discovery = Field(
        Discovery(), description="How a taxonomy of your own is made; no other command reads it."
    )
    transitions: Transitions = Field(Transitions(), description="How the matrices P, P⁺ and P⁻ are estimated.")
    weights: Weights = Field(Weights(), description="How a step's weight follows from the matrices.")
    examples: Examples = Field(Examples(), description="What becomes a training example.")
    training: Training = Field(Training(), description="How the model is trained.")
    evaluation: Evaluation = Field(Evaluation(), description="How models are asked, judged and compared.")

    @property
    def trains(self) -> bool:
        """Whether there is anything to train on; without it a run only evaluates its model."""
        return bool(self.questions.train or self.rollouts.import_on)

    @property
    def draws_as_needed(self) -> bool:
        """Whether a question is drawn only for as long as it can still become a candidate."""
        if self.rollouts.import_on:
            return False
        return self.rollouts.order == "needed" or (self.rollouts.order == "auto" and not self.candidates.keep_neutral)

    @model_validator(mode="after")
    def _neutral_needs_all_draws(self) -> RunConfig:
        if self.rollouts.order == "needed" and self.candidates.keep_neutral:
            raise ValueError(
                "candidates.keep_neutral=true keeps undecided questions, of which all draws are needed; give "
                "rollouts.order=all (or leave it at auto), or candidates.keep_neutral=false"
            )
        return self

    def filled(self, annotator: Annotator) -> Annotator:
        """The annotator with the run's own sections where it names none: all that its replies depend on."""
        if annotator.engine == "vllm":
            own = {"model": annotator.model or self.model, "serving": annotator.serving or self.engine}
            return annotator.model_copy(update=own)
        if annotator.engine == "http":
            http = annotator.http or self.http
            return annotator.model_copy(
                update={"http": http.model_copy(update={"model": http.model or self.model.path})}
            )
        return annotator

    @model_validator(mode="after")
    def _shrunk_needs_errors(self) -> RunConfig:
        if self.weights.rule == "shrunk" and not self.transitions.bootstrap:
            raise ValueError(
                "weights.rule=shrunk needs the standard errors of the ratios, and transitions.bootstrap=0 draws none; "
                "give transitions.bootstrap=50, or another rule"
            )
        return self

    @model_validator(mode="after")
    def _prompts_ask(self) -> RunConfig:
        own = {f"evaluation.prompts.{name}": prompt for name, prompt in self.evaluation.prompts.items()}
        plain = {"rollouts.prompt": self.rollouts.prompt, "evaluation.prompt": self.evaluation.prompt}
        for name, prompt in (plain | own).items():
            if "{question}" not in prompt:
                raise ValueError(f"{name}={prompt!r} does not hold {{question}}; put it where the question goes")
        return self

    @model_validator(mode="after")
    def _predictions_are_not_trained_on(self) -> RunConfig:
        if self.evaluation.predictions and self.trains:
            raise ValueError(
                "evaluation.predictions are scored as they are, and this run trains; leave out questions.train and "
                "rollouts.import_on, or evaluation.predictions"
            )
        return self

    @model_validator(mode="after")
    def _has_questions(self) -> RunConfig:
        questions = self.questions
        if not (self.rollouts.import_on or questions.train or questions.dev or questions.test):
            raise ValueError(
                "no questions: give questions.train (a list of {name, path}) or rollouts.import_on/import_off to train "
                "on, questions.dev or questions.test to evaluate with"
            )
        return self


def train_names(config: RunConfig) -> tuple[str, ...]:
    """Names of the data sets that a run has for training, in their order."""
    if config.rollouts.import_on:
        return (config.rollouts.import_name,)
    return tuple(source.name for source in config.questions.train)


def chosen_datasets(config: RunConfig) -> tuple[str, ...]:
    """The data sets that `training.datasets` leaves, in alphabetical order; empty where those are all of them."""
    chosen = set(config.training.datasets)
    return () if chosen >= set(train_names(config)) else tuple(sorted(chosen))


def check_datasets(config: RunConfig) -> None:
    """Raise ValueError for a name in `training.datasets` that is no data set of this run."""
    allowed = train_names(config)
    unknown = [name for name in config.training.datasets if name not in allowed]
    if unknown:
        raise ValueError(
            f"training.datasets names {unknown}, which this run does not train on; allowed are {list(allowed)}, the "
            f"names in questions.train (or rollouts.import_name)"
        )
