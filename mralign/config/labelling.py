"""From candidates to labels: annotators, their panel, and the discovery of a taxonomy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mralign.config.models import Decoding, Engine, Http, Model, ThinkMode
from mralign.config.section import Content, Repeated, Section


class Annotator(Section):
    """One annotator: a model that vLLM serves here, one behind an endpoint, or the offline cue phrases."""

    name: str
    engine: Literal["cues", "vllm", "http"] = "cues"
    rule_book: Content[str | None] = Field(None, description="cues: the YAML file of its cue phrases.")
    model: Model | None = Field(None, description="vllm: null is the section `model`. Equal ones share their engines.")
    serving: Engine | None = Field(None, description="vllm: null is the section `engine`.")
    http: Http | None = Field(None, description="http: null is the section `http`. Equal ones share their purse.")
    mode: ThinkMode | None = Field(None, description="How a chat is asked; null is thinking off, where that is known.")
    decoding: Decoding = Decoding(temperature=0.0, top_p=1.0, max_tokens=2048)
    structured: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema", description="What holds the reply while it is written; not every endpoint knows schemas."
    )

    @model_validator(mode="after")
    def _fits_engine(self) -> Annotator:
        wanted = {"cues": {"rule_book"}, "vllm": {"model", "serving"}, "http": {"http"}}[self.engine]
        given = {n for n in ("rule_book", "model", "serving", "http") if getattr(self, n) is not None}
        if given - wanted:
            raise ValueError(f"{sorted(given - wanted)} mean nothing to engine={self.engine}; delete them")
        if self.engine == "cues" and self.rule_book is None:
            raise ValueError(f"annotator {self.name!r} with engine=cues needs a rule_book")
        return self


class Annotation(Section):
    """Two annotators, an adjudicator, and the taxonomy they label with (method.md §2a)."""

    annotators: tuple[Annotator, Annotator] = (
        Annotator(name="first", rule_book="pkg://mralign.annotation/rule_books/first.yaml"),
        Annotator(name="second", rule_book="pkg://mralign.annotation/rule_books/second.yaml"),
    )
    adjudicator: Annotator = Annotator(
        name="adjudicator", rule_book="pkg://mralign.annotation/rule_books/adjudicator.yaml"
    )
    taxonomy: Content[str | None] = Field(None, description="Taxonomy YAML; null is the paper's 15 labels.")
    threshold: float = Field(7.0, ge=0, le=10)
    show_answers: bool = Field(True, description="Show annotators the gold answers, as the paper does.")
    human: Content[str | None] = Field(
        None, description="CSV of a human's labels: one more annotator in the agreement."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Annotation:
        names = [annotator.name for annotator in (*self.annotators, self.adjudicator)]
        if len({*names, "human", "final"}) < 5:
            raise ValueError(f"the annotators are named {names}; three different names, none of them human or final")
        return self


class Embedding(Section):
    """The model that turns short texts into vectors: vLLM's pooling runner, or sentence-transformers."""

    engine: Literal["vllm", "sentence_transformers"] = "vllm"
    path: str = Field("BAAI/bge-m3", description="Model directory or hub name.")
    prefix: str = Field("", description="Put before every text, where a model asks for it, e.g. `query: `.")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_model_len: int | None = Field(None, ge=8, description="Tokens of a text; null is the model's own bound.")
    batch_size: int = Field(64, ge=1)
    gpu: bool = False


class Discovery(Section):
    """From names that an annotator finds freely to a taxonomy (method.md §2b): `mralign taxonomy`."""

    sample: int = Field(2000, ge=1, description="Trajectories that are labelled.")
    labeller: Annotator | None = Field(
        None, description="Who finds the names and later names the clusters; null is annotation.adjudicator."
    )
    min_frequency: Repeated[int] = Field(5, ge=1, description="A name found less often is left out.")
    embedding: Repeated[Embedding] = Embedding()
    min_samples: Repeated[int] = Field(
        5, ge=2, description="OPTICS: names within reach that make a name a core of a cluster."
    )
    min_cluster_share: Repeated[float] = Field(
        0.03, ge=0, le=1, description="Least share of the names in a cluster, and never fewer than min_samples."
    )
    xi: Repeated[float] = Field(0.05, gt=0, lt=1, description="OPTICS: how steep the edge of a cluster is.")
    representatives: Repeated[int] = Field(
        10, ge=1, description="Names of a cluster that are shown to whoever names it."
    )
