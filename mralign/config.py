"""The one configuration of a run: a frozen pydantic model with a section per room.

Values enter as defaults, then a preset's YAML, then `section.field=value` overrides from the command line; a checked
`RunConfig` leaves. Unknown keys and wrong types are errors that name the key. Nothing heavy is imported here, so that
a wrong configuration ends a run before any engine starts.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(Section):
    """Where the run lives and what holds for all of it."""

    dir: str = Field("runs/default", description="Run directory: a local path or any pyarrow file-system URI.")
    seed: int = Field(0, ge=0)
    reject_limit: float = Field(0.2, ge=0, le=1, description="Share of rows a stage may reject before it fails.")
    local_cpus: int = Field(6, ge=2, description="Logical CPUs of the local Ray when no cluster is running.")


class ThinkMode(Section):
    """How one mode of thinking is asked for, where the family's own way is not wanted or not known."""

    template: dict[str, bool | int | str] = Field(
        default_factory=dict, description="Variables handed to the chat template, e.g. {enable_thinking: false}."
    )
    system: str | None = Field(None, description="System message, e.g. `detailed thinking on`.")
    prompt: str = Field("{question}", description="Put around the user's message; `{question}` stands for it.")
    prefill: str = Field("", description="Text that the answer is made to begin with; it counts as prompt.")

    @model_validator(mode="after")
    def _asks(self) -> ThinkMode:
        if "{question}" not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r} does not hold {{question}}; put it where the question goes")
        return self


class Model(Section):
    """The model that thinks: the policy before alignment, and pi_ref."""

    path: str = Field("pkg://mralign.miniworld/data/model", description="Model directory or hub name.")
    adapter: str | None = Field(None, description="LoRA adapter directory on top of `path`; the policy is then both.")
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    trust_remote_code: bool = False
    family: str = Field("auto", description="How thinking is switched: a name in engines/families.py, or auto.")
    think_on: ThinkMode | None = Field(None, description="In place of the family's way; goes with think_off.")
    think_off: ThinkMode | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Model:
        if (self.think_on is None) != (self.think_off is None):
            raise ValueError("model.think_on and model.think_off go together: give both or neither")
        return self

    def matters(self) -> dict[str, Any]:
        """Everything that changes what the model computes, except the files, which count by their content."""
        return self.model_dump(mode="json", exclude={"path", "adapter"})

    def inputs(self) -> dict[str, str]:
        """The files of the model, by what they are."""
        return {"model": self.path} | ({"adapter": self.adapter} if self.adapter else {})


class Source(Section):
    """One data set of questions, its format, and the names of its fields."""

    name: str
    path: str = Field(description="Local path, pyarrow or fsspec URL, or hub://OWNER/NAME?split=...&config=...")
    format: Literal["auto", "plain", "nq_open", "sciq", "simpleqa", "truthfulqa", "longfact"] = Field(
        "auto", description="auto: plain (JSONL, JSON, CSV, Parquet by suffix) with the field map."
    )
    fields: dict[str, str] = Field(
        default_factory=dict, description="Our names -> the file's; left out: id, question, answers -> `answer`."
    )
    limit: int | None = Field(None, ge=1)


class Questions(Section):
    """Where questions come from. Train, dev and test are kept apart."""

    train: tuple[Source, ...] = ()
    dev: tuple[Source, ...] = ()
    test: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Questions:
        for split in ("train", "dev", "test"):
            names = [source.name for source in getattr(self, split)]
            if len(set(names)) < len(names):
                raise ValueError(f"questions.{split} names {names}: two sources share a name, so ids could collide")
        return self


class Decoding(Section):
    """Sampling parameters of an engine."""

    temperature: float = Field(0.2, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0 keeps the whole vocabulary.")
    max_tokens: int = Field(8192, ge=1)


class Engine(Section):
    """vLLM: one engine per replica."""

    min_replicas: int = Field(1, ge=1, description="Engines kept while there is work.")
    max_replicas: int = Field(1, ge=1, description="Engines that may run at once: Ray Data scales between the two.")
    cpus_per_replica: int = Field(1, ge=1, description="Also the threads of an engine without a GPU.")
    gpus_per_replica: float = Field(0, ge=0, description="GPUs of one engine: tensor_parallel x pipeline_parallel.")
    tensor_parallel: int = Field(1, ge=1)
    pipeline_parallel: int = Field(1, ge=1)
    max_model_len: int = Field(8192, ge=16)
    max_num_seqs: int = Field(64, ge=1, description="Sequences that one engine decodes together.")
    batch_size: int = Field(64, ge=1, description="Requests that are committed together as one part.")
    enforce_eager: bool = False
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    cpu_kv_cache_gib: int = Field(1, ge=1, description="Key-value cache of an engine without a GPU.")

    @property
    def concurrent_batches(self) -> int:
        """Batches that one engine works on at once: so many that it stays full while the slowest rows of some are
        still decoding and others are being rendered or committed."""
        return 2 * -(-self.max_num_seqs // self.batch_size) + 1

    @model_validator(mode="after")
    def _possible(self) -> Engine:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas} is above max_replicas={self.max_replicas}")
        wanted = self.tensor_parallel * self.pipeline_parallel
        if wanted > 1 and self.gpus_per_replica != wanted:
            raise ValueError(
                f"gpus_per_replica={self.gpus_per_replica:g} does not equal tensor_parallel x pipeline_parallel = "
                f"{wanted}; an engine that is split over GPUs needs one for each part"
            )
        return self


class Http(Section):
    """An OpenAI-compatible endpoint. The key comes from the environment variable named here, never from a file."""

    base_url: str = Field("http://127.0.0.1:8000/v1", description="Up to and with /v1.")
    model: str | None = Field(None, description="The name the endpoint knows; null is model.path.")
    key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key; unset: no key.")
    concurrency: int = Field(32, ge=1, description="Requests in flight, and connections.")
    vllm_extras: bool = Field(
        True, description="Ask for what only vLLM's server knows: top_k and the sampled token ids. OpenAI refuses it."
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields put into every request, or taken out by null: {temperature: null, reasoning_effort: low}.",
    )
    timeout_s: float = Field(600, gt=0, description="Seconds for one whole response.")
    max_retries: int = Field(8, ge=0, description="Further tries of a request after 429, 5xx, timeouts, broken bodies.")
    max_backoff_s: float = Field(60, gt=0, description="Longest wait between tries, unless Retry-After asks for more.")
    price_prompt: float = Field(0, ge=0, description="Money for a million prompt tokens.")
    price_completion: float = Field(0, ge=0, description="Money for a million completion tokens.")
    # Cached responses cost nothing; a budget needs a price to count by.
    budget: float | None = Field(
        None, ge=0, description="Money that this run directory may spend here, earlier runs on it included."
    )


class ImportFields(Section):
    """Names of the fields in a JSONL file of rollouts made elsewhere."""

    id: str = "id"
    question: str = "question"
    answers: str = "answer"
    thought: str | None = Field(None, description="Field of the thought; null when `response` holds it as well.")
    response: str = "response"
    draw: str | None = None


class Rollouts(Section):
    """N draws in each mode, sampled here or imported."""

    n: int = Field(3, ge=1)
    engine: Literal["vllm", "http"] = Field("vllm", description="http: the endpoint of the section `http` instead.")
    decoding: Decoding = Decoding()
    prompt: str = Field("{question}", description="The user's message; `{question}` stands for the question.")
    import_on: str | None = Field(None, description="JSONL of think-on rollouts to use in place of sampling.")
    import_off: str | None = None
    import_name: str = "imported"
    import_fields: ImportFields = ImportFields()

    @model_validator(mode="after")
    def _both_or_none(self) -> Rollouts:
        if (self.import_on is None) != (self.import_off is None):
            raise ValueError("rollouts.import_on and rollouts.import_off go together: give both or neither")
        return self


class Candidates(Section):
    """Verdict and length filter; all four bounds are open (METHOD 1)."""

    match: Literal["exact", "contains"] = "exact"
    min_segments: int = 4
    max_segments: int = 15
    min_thought_tokens: int = 450
    max_thought_tokens: int = 1000
    keep_all_draws: bool = False
    keep_neutral: bool = Field(False, description="Annotate undecided questions too, to estimate P from all rollouts.")

    @model_validator(mode="after")
    def _not_empty(self) -> Candidates:
        for low, high in (("min_segments", "max_segments"), ("min_thought_tokens", "max_thought_tokens")):
            if getattr(self, high) - getattr(self, low) < 2:
                raise ValueError(
                    f"candidates.{low}={getattr(self, low)} and {high}={getattr(self, high)} let no thought pass: "
                    f"both bounds are open"
                )
        return self


class Annotator(Section):
    """One annotator: a model that vLLM serves here, one behind an endpoint, or the offline cue phrases."""

    name: str
    engine: Literal["cues", "vllm", "http"] = "cues"
    rule_book: str | None = Field(None, description="cues: the YAML file of its cue phrases.")
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
    """Two annotators, an adjudicator, and the taxonomy they label with (METHOD 2a)."""

    annotators: tuple[Annotator, Annotator] = (
        Annotator(name="first", rule_book="pkg://mralign.engines/rule_books/first.yaml"),
        Annotator(name="second", rule_book="pkg://mralign.engines/rule_books/second.yaml"),
    )
    adjudicator: Annotator = Annotator(
        name="adjudicator", rule_book="pkg://mralign.engines/rule_books/adjudicator.yaml"
    )
    taxonomy: str | None = Field(None, description="Taxonomy YAML; null is the paper's 15 labels.")
    threshold: float = Field(7.0, ge=0, le=10)
    show_answers: bool = Field(True, description="Show annotators the gold answers, as the paper does.")
    human: str | None = Field(None, description="CSV of a human's labels: one more annotator in the agreement.")

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
    """From names that an annotator finds freely to a taxonomy (METHOD 2b): jobs/taxonomy.py."""

    sample: int = Field(2000, ge=1, description="Trajectories that are labelled.")
    labeller: Annotator | None = Field(
        None, description="Who finds the names and later names the clusters; null is annotation.adjudicator."
    )
    min_frequency: int = Field(5, ge=1, description="A name found less often is left out.")
    embedding: Embedding = Embedding()
    min_samples: int = Field(5, ge=2, description="OPTICS: names within reach that make a name a core of a cluster.")
    min_cluster_share: float = Field(
        0.03, ge=0, le=1, description="Least share of the names in a cluster, and never fewer than min_samples."
    )
    xi: float = Field(0.05, gt=0, lt=1, description="OPTICS: how steep the edge of a cluster is.")
    representatives: int = Field(10, ge=1, description="Names of a cluster that are shown to whoever names it.")


class Transitions(Section):
    """Estimation of P, P+ and P- (METHOD 3).

    `preset: converged` runs EM undamped until no entry moves by 1e-9 or more; values given beside a preset win.
    """

    preset: Literal["paper", "converged"] = "paper"
    estimator: Literal["em", "frequency"] = "em"
    labels: Literal["all", "single"] = "all"
    em: Literal["reduced", "sharded"] = Field(
        "reduced", description="E-step on the summed count table, or on the table of each part, once an iteration."
    )
    bootstrap: int = Field(50, ge=0, description="Replicates for the standard errors; 0 is none, 1 is no spread.")
    max_iter: int = Field(5, ge=1)
    tol: float = Field(1e-6, ge=0)
    damping: float = Field(0.6, gt=0, le=1)
    prior: float = Field(0.1, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "converged":
            return {"max_iter": 1000, "tol": 1e-9, "damping": 1.0} | values
        return values

    @model_validator(mode="after")
    def _has_a_spread(self) -> Transitions:
        if self.bootstrap == 1:
            raise ValueError("transitions.bootstrap=1 has no spread; allowed are 0 (no standard errors) or 2 and more")
        return self


class Weights(Section):
    """Step weights (METHOD 4)."""

    anchor: Literal["global", "opposite"] = "global"
    control: Literal["none", "shuffle", "mean", "uniform"] = "none"
    clip_min: float = Field(1 / math.e, gt=0)
    clip_max: float = Field(math.e, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Weights:
        if self.clip_min > self.clip_max:
            raise ValueError(f"weights.clip_min={self.clip_min} is above weights.clip_max={self.clip_max}")
        return self


class Examples(Section):
    """Training examples; a longer sequence is a reject, never cut."""

    max_length: int = Field(4096, ge=2, description="Tokens of prompt and completion together.")


class Lora(Section):
    """LoRA on all linear layers."""

    r: int = Field(32, ge=1)
    alpha: int = Field(64, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class Training(Section):
    """KTO with token weights (METHOD 5), or a baseline by the same loop."""

    method: Literal["mralign", "kto", "sft"] = "mralign"
    learning_rate: float | None = Field(None, gt=0, description="null is the paper's: 1e-4 for SFT, else 5e-6.")
    epochs: int = Field(3, ge=1)
    max_steps: int | None = Field(None, ge=1, description="Stop after so many optimizer steps.")
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(64, ge=2, description="Examples an optimizer step, over all workers.")
    micro_batch_size: int = Field(2, ge=1, description="Examples a forward pass on one worker.")
    beta: float = Field(0.1, gt=0)
    lambda_chosen: float = Field(1.0, gt=0)
    lambda_rejected: float = Field(1.5, gt=0)
    kl_ema: float = Field(0.0, ge=0, lt=1)
    lora: Lora = Lora()
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    workers: int = Field(2, ge=1)
    gpu: bool = False
    threads_per_worker: int = Field(1, ge=1, description="Torch threads of a CPU worker.")
    zero_stage: Literal[0, 1, 2, 3] = 2
    checkpoint_every: int = Field(20, ge=1, description="Optimizer steps between checkpoints.")
    max_failures: int = Field(3, ge=0)

    @property
    def rate(self) -> float:
        """The learning rate in use: the given one, or the paper's for the method (METHOD 5)."""
        return self.learning_rate or (1e-4 if self.method == "sft" else 5e-6)


class Evaluation(Section):
    """Held-out questions, decoding, and the interval of every figure (METHOD 6)."""

    split: Literal["dev", "test"] = "test"
    draws: int = Field(1, ge=1)
    match: Literal["exact", "contains"] = "exact"
    prompt: str = Field("{question}", description="The user's message; `{question}` stands for the question.")
    decoding: Decoding = Decoding(temperature=0.6, top_p=0.95, top_k=20)
    bootstrap_samples: int = Field(2000, ge=100)
    level: float = Field(0.95, gt=0, lt=1)


class RunConfig(Section):
    """Everything a run needs to know."""

    run: Run = Run()
    model: Model = Model()
    questions: Questions = Questions()
    engine: Engine = Engine()
    http: Http = Http()
    rollouts: Rollouts = Rollouts()
    candidates: Candidates = Candidates()
    annotation: Annotation = Annotation()
    discovery: Discovery = Discovery()
    transitions: Transitions = Transitions()
    weights: Weights = Weights()
    examples: Examples = Examples()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _prompts_ask(self) -> RunConfig:
        for name, prompt in (("rollouts", self.rollouts.prompt), ("evaluation", self.evaluation.prompt)):
            if "{question}" not in prompt:
                raise ValueError(f"{name}.prompt={prompt!r} does not hold {{question}}; put it where the question goes")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> RunConfig:
        per_step = self.training.workers * self.training.micro_batch_size
        if self.training.batch_size % per_step:
            raise ValueError(
                f"training.batch_size={self.training.batch_size} is not a multiple of workers x micro_batch_size = "
                f"{self.training.workers} x {self.training.micro_batch_size} = {per_step}; choose one that is"
            )
        if not self.rollouts.import_on and not self.questions.train:
            raise ValueError(
                "no training questions: give questions.train (a list of {name, path}) or rollouts.import_on/import_off"
            )
        return self


def load(preset: str, *, overrides: Sequence[str] = (), presets_dir: Path | None = None) -> RunConfig:
    """Defaults < preset < overrides.

    `preset` is a name in `presets_dir` or a path of a YAML file; each override is `section.field=value`, the value in
    YAML. Raises ValueError that names the key, what is allowed and what to do.
    """
    values = _read_preset(preset, presets_dir)
    for override in overrides:
        _apply(values, override)
    return parse(values)


def parse(values: Mapping[str, Any]) -> RunConfig:
    """Check a nested mapping against RunConfig; ValueError with every problem, one a line."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError("wrong configuration:\n" + "\n".join(_explain(e) for e in error.errors())) from None


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def resolve_path(path: str) -> str:
    """`pkg://package/inner/path` becomes the path of that package's data, `~` the home; others stay as they are."""
    if not path.startswith("pkg://"):
        return str(Path(path).expanduser()) if path.startswith("~") else path
    package, _, inner = path.removeprefix("pkg://").partition("/")
    try:
        return str(files(package).joinpath(inner))
    except (ImportError, TypeError, ValueError):
        raise ValueError(f"{path}: no package {package!r} is installed; write pkg://package/inner/path") from None


def _read_preset(preset: str, presets_dir: Path | None) -> dict[str, Any]:
    path = Path(preset)
    if not path.suffix and presets_dir is not None:
        path = presets_dir / f"{preset}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in presets_dir.glob("*.yaml")) if presets_dir else []
        raise ValueError(f"no preset {preset!r}: {path} is not a file; allowed are {known} or the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"preset {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"preset {path} must hold sections such as `model:`; it holds {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or len(names) < 2:
        raise ValueError(f"override {override!r} is not of the form section.field=value")
    node = values
    for name in names[:-1]:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ValueError(f"override {override!r}: {name} is no section")
    try:
        node[names[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"override {override!r}: the value is not valid YAML; quote it") from None


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "configuration"
    if error["type"] == "extra_forbidden":
        allowed = _fields_at(error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), allowed, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"  {where}: unknown key; {hint}allowed here: {', '.join(allowed)}"
    given = "" if isinstance(error.get("input"), dict) else f" (given: {error.get('input')!r})"
    return f"  {where}: {error['msg'].removeprefix('Value error, ')}{given}"


def _fields_at(location: Sequence[Any]) -> list[str]:
    model: Any = RunConfig
    for name in location:
        field = getattr(model, "model_fields", {}).get(name)
        annotation = getattr(field, "annotation", None)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        elif isinstance(name, int):
            continue
        else:
            args = [a for a in getattr(annotation, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
            if not args:
                return []
            model = args[0]
    return sorted(model.model_fields)
