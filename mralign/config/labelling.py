"""From candidates to labels: annotators, their panel, and the discovery of a taxonomy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mralign.config.models import Decoding, Engine, Http, Model, ThinkMode
from mralign.config.section import Content, Repeated, Section


class Annotator(Section):
    """One annotator: a model that vLLM serves here, one behind an endpoint, a labeller of one's own, or the offline cue
    phrases."""

    name: str = Field(description="Name in tables, rejects and the report. Unique among annotators and adjudicator.")
    engine: Literal["cues", "vllm", "http", "distilled"] = Field(
        "cues",
        description="What it is: cue phrases (cues; a first draft only), a model that the run serves (vllm), one "
        "behind an endpoint (http), or a labeller that `mralign distill` has learned from a panel (distilled).",
    )
    rule_book: Content[str | None] = Field(
        None, description="The YAML file of cue phrases; for engine cues, which needs one."
    )
    labeller: Content[str | None] = Field(
        None, description="The directory that `mralign distill` has written; for engine distilled, which needs one."
    )
    model: Model | None = Field(
        None,
        description="The model to serve, for engine vllm; null: the section model. Annotators with equal `model` and "
        "`serving` share their engines.",
    )
    serving: Engine | None = Field(
        None, description="How that model is served, for engine vllm; null: the section engine."
    )
    http: Http | None = Field(
        None,
        description="The endpoint, for engine http; null: the section http. Annotators with equal ones share one "
        "budget.",
    )
    mode: ThinkMode | None = Field(
        None,
        description="How the model is asked to think or not; null: a plain chat at an endpoint, and without thinking "
        "in a served model whose family is known, since a schema leaves no room for a thought.",
    )
    decoding: Decoding = Field(
        Decoding(temperature=0.0, top_p=1.0, max_tokens=2048),
        description="How its replies are sampled. Raise max_tokens where replies are cut off.",
    )
    structured: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema",
        description="What holds the reply to a form while it is written. Take json_object or none for an endpoint "
        "that knows no schemas.",
    )

    @model_validator(mode="after")
    def _fits_engine(self) -> Annotator:
        allowed = {"cues": {"rule_book"}, "vllm": {"model", "serving"}, "http": {"http"}, "distilled": {"labeller"}}
        wanted = allowed[self.engine]
        given = {n for n in ("rule_book", "model", "serving", "http", "labeller") if getattr(self, n) is not None}
        if given - wanted:
            raise ValueError(f"{sorted(given - wanted)} mean nothing to engine={self.engine}; delete them")
        if self.engine == "cues" and self.rule_book is None:
            raise ValueError(f"annotator {self.name!r} with engine=cues needs a rule_book")
        if self.engine == "distilled" and self.labeller is None:
            raise ValueError(f"annotator {self.name!r} with engine=distilled needs a labeller, see mralign distill")
        return self

    @property
    def is_chat(self) -> bool:
        """Whether it is a model that is asked in words."""
        return self.engine in ("vllm", "http")


class Cascade(Section):
    """The panel is asked about some trajectories, a labeller of one's own labels the others (docs/annotators.md)."""

    labeller: Content[str] = Field(description="The directory that `mralign distill` has written.")
    budget: int = Field(
        ge=0,
        description="Trajectories that the panel is asked about: those whose labels are expected to move the weights "
        "most.",
    )


class Annotation(Section):
    """Two annotators, an adjudicator, and the taxonomy they label with (method.md §2a)."""

    annotators: tuple[Annotator, Annotator] = Field(
        (
            Annotator(name="first", rule_book="pkg://mralign.annotation/rule_books/first.yaml"),
            Annotator(name="second", rule_book="pkg://mralign.annotation/rule_books/second.yaml"),
        ),
        description="The two annotators that label every thought. The default are cue phrases; for real thoughts "
        "give two language models.",
    )
    adjudicator: Annotator = Field(
        Annotator(name="adjudicator", rule_book="pkg://mralign.annotation/rule_books/adjudicator.yaml"),
        description="Decides the steps on which the two annotators cannot agree.",
    )
    taxonomy: Content[str | None] = Field(
        None, description="YAML file of the strategies to label with; null: the paper's 15."
    )
    instruction: Content[str | None] = Field(
        None,
        description="Text file that takes the place of what the two annotators are told; it holds {taxonomy}, "
        "{question}, {answers} and {segments}. null: the built-in instruction.",
    )
    cascade: Cascade | None = Field(
        None,
        description="Ask the panel about a part of the trajectories only, and leave the others to a labeller that has "
        "learned from such a panel; null: the panel is asked about all.",
    )
    threshold: float = Field(
        7.0,
        ge=0,
        le=10,
        description="Confidence (0 to 10) above which a label is taken that only one annotator gave.",
    )
    show_answers: bool = Field(True, description="Show the gold answers to the annotators, as the paper does.")
    human: Content[str | None] = Field(
        None,
        description="CSV file of a human's labels, who becomes one more annotator in the agreement: row_id, "
        "first_segment, last_segment, labels.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Annotation:
        names = [annotator.name for annotator in (*self.annotators, self.adjudicator)]
        if len({*names, "human", "final"}) < 5:
            raise ValueError(
                f"the annotators are named {names}; give three different names, none of them human or final"
            )
        return self


class Embedding(Section):
    """The model that turns short texts into vectors: vLLM's pooling runner, or sentence-transformers."""

    engine: Literal["vllm", "sentence_transformers"] = Field(
        "vllm",
        description="What computes the vectors: vLLM's pooling runner, or sentence-transformers (mralign[discovery]).",
    )
    path: str = Field("BAAI/bge-m3", description="The embedding model: a local directory or a name on the hub.")
    prefix: str = Field("", description="Text before every name, where the model asks for one, e.g. `query: `.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format in which the embedding model computes."
    )
    max_model_len: int | None = Field(None, ge=8, description="Longest text in tokens; null: the model's own bound.")
    batch_size: int = Field(64, ge=1, description="Texts that are embedded together.")
    gpu: bool = Field(False, description="Embed on a GPU; false: on the CPU.")


class Discovery(Section):
    """From names that an annotator finds freely to a taxonomy (method.md §2b): `mralign taxonomy`."""

    sample: int = Field(2000, ge=1, description="Number of thoughts in which strategies are named freely.")
    labeller: Annotator | None = Field(
        None,
        description="Who finds the names and later names the clusters, engine vllm or http; null: "
        "annotation.adjudicator.",
    )
    min_frequency: Repeated[int] = Field(
        5, ge=1, description="A name must be found so often to be clustered. Lower it for a small sample."
    )
    embedding: Repeated[Embedding] = Field(
        Embedding(), description="The model that turns names into vectors, by which they are clustered."
    )
    min_samples: Repeated[int] = Field(
        5,
        ge=2,
        description="Names within reach that make a name the core of a cluster (OPTICS). Raise it for fewer, denser "
        "clusters.",
    )
    min_cluster_share: Repeated[float] = Field(
        0.03,
        ge=0,
        le=1,
        description="Smallest cluster as a share of all names; never fewer names than min_samples.",
    )
    xi: Repeated[float] = Field(
        0.05,
        gt=0,
        lt=1,
        description="How steep the edge of a cluster must be (OPTICS). Change it where the map of the clusters shows "
        "what should be one, or apart.",
    )
    representatives: Repeated[int] = Field(
        10, ge=1, description="Names of a cluster that are shown to the labeller when it names the cluster."
    )
