"""Models and how they are served: families, decoding, vLLM engines, endpoints."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field, model_validator

from mralign.config.section import Content, Section, Speed

_ADAPTER = "adapter, merged in way 2"  # another way is named where another model comes of the same adapter


class ThinkMode(Section):
    """How one mode of thinking is asked for, where the family's own way is not wanted or not known."""

    template: dict[str, bool | int | str] = Field(
        default_factory=dict,
        description="Variables that are handed to the chat template, e.g. {enable_thinking: false}.",
    )
    system: str | None = Field(None, description="System message, e.g. `detailed thinking on`.")
    prompt: str = Field("{question}", description="Text around the user's message, which stands where `{question}` is.")
    prefill: str = Field(
        "", description="Text with which the completion is made to begin; it counts as part of the prompt."
    )

    @model_validator(mode="after")
    def _asks(self) -> ThinkMode:
        if "{question}" not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r} does not hold {{question}}; put it where the question goes")
        return self


class Model(Section):
    """The model that thinks: the policy before alignment, and pi_ref."""

    path: Content[str] = Field(
        "pkg://mralign.miniworld/data/model",
        description="The model to align or evaluate: a local directory, a name on the hub, or pkg://PACKAGE/PATH.",
    )
    adapter: Content[str | None] = Field(
        None, description="Directory of a LoRA adapter that is put on top of `path`; the policy is then both together."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16",
        description="Number format in which vLLM serves the model and the merged model is saved. The trainer has its "
        "own, training.dtype.",
    )
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that lies in the model's directory. Needed only by a model that transformers "
        "does not know; set it only for authors whom you trust.",
    )
    family: str = Field(
        "auto",
        description="How thinking is switched on and off: qwen3, nemotron_nano_v2, nemotron, deepseek_r1, prompted, "
        "or auto, which goes by the chat template and the name. prompted asks any chat model to think.",
    )
    think_on: ThinkMode | None = Field(
        None,
        description="How to ask for thinking, where the family's own way is wrong or not known; goes with think_off.",
    )
    think_off: ThinkMode | None = Field(
        None, description="How to ask for an answer without thinking; goes with think_on, from which it must differ."
    )
    thought_tags: tuple[str, str] = Field(
        ("<think>", "</think>"),
        description="What the model writes before and after a thought, e.g. ['[THINK]', '[/THINK]'] (Magistral).",
        exclude_if=lambda tags: tags == ("<think>", "</think>"),
    )
    template_date: datetime.date | None = Field(
        None,
        description="The day that a chat template writes as today's date; null: the day on which the run directory "
        "was made. It changes nothing where the template writes no date.",
        exclude_if=lambda day: day is None,  # prompts without a date change no fingerprint
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Model:
        if (self.think_on is None) != (self.think_off is None):
            raise ValueError("model.think_on and model.think_off go together: give both or neither")
        if not all(tag.strip() for tag in self.thought_tags) or len(set(self.thought_tags)) < 2:
            raise ValueError(
                f"model.thought_tags={list(self.thought_tags)}: give two different tags, none of them empty"
            )
        return self

    def inputs(self) -> dict[str, str]:
        """The files of the model, by what they are."""
        return {"model": self.path} | ({_ADAPTER: self.adapter} if self.adapter else {})


class Decoding(Section):
    """Sampling parameters of an engine."""

    temperature: float = Field(
        0.2, ge=0, description="How much chance there is in the choice of a token; 0: the likeliest token is taken."
    )
    top_p: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Sample from the likeliest tokens that together have this probability; 1: from all.",
    )
    top_k: int = Field(
        0, ge=0, description="Sample from this many of the likeliest tokens; 0: from the whole vocabulary."
    )
    max_tokens: int = Field(
        8192,
        ge=1,
        description="Longest completion in tokens, thought included. What is cut there counts as truncated: raise it "
        "if the report shows many truncated answers.",
    )


class Engine(Section):
    """How many vLLM engines there are, what each takes, and its limits; a replica is one engine."""

    min_replicas: Speed[int] = Field(
        1,
        ge=1,
        description="Engines that are kept while there is work. Equal to max_replicas, the engines also stay between "
        "the stages of a run, which saves their start.",
    )
    max_replicas: Speed[int] = Field(
        1,
        ge=1,
        description="Engines that may run at once. Set it to the number of GPUs divided by gpus_per_replica.",
    )
    cpus_per_replica: Speed[int] = Field(
        1,
        ge=1,
        description="CPUs that Ray reserves for one engine; an engine without a GPU computes with as many threads.",
    )
    gpus_per_replica: Speed[float] = Field(
        0,
        ge=0,
        description="GPUs of one engine: 0 on a CPU, 1 for a model that fits one GPU, a share such as 0.5 to put two "
        "engines on one, tensor_parallel x pipeline_parallel for a larger model.",
    )
    tensor_parallel: Speed[int] = Field(
        1,
        ge=1,
        description="GPUs that share every layer of one engine's model. Raise it (2, 4, 8) for a model that does not "
        "fit one GPU.",
    )
    pipeline_parallel: Speed[int] = Field(
        1,
        ge=1,
        description="Groups of GPUs that each hold a part of the layers. Raise it where tensor_parallel cannot be "
        "raised further.",
    )
    max_model_len: int = Field(
        8192,
        ge=16,
        description="Longest prompt and completion together, in tokens. A longer prompt is a reject. Fewer tokens "
        "leave room for more sequences in the memory.",
    )
    max_num_seqs: Speed[int] = Field(
        64, ge=1, description="Sequences that one engine decodes together. The preset paper takes 256 on a GPU."
    )
    batch_size: Speed[int] = Field(
        64,
        ge=1,
        description="Requests that are committed together as one Parquet part. A killed engine loses at most the "
        "batches in flight.",
    )
    enforce_eager: Speed[bool] = Field(
        False, description="Do without CUDA graphs: a faster start, less memory, slower decoding. A CPU always does."
    )
    gpu_memory_utilization: Speed[float] = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of a GPU's memory that one engine may take. Lower it where engines share a GPU, or where "
        "other programs use it.",
    )
    cpu_kv_cache_gib: Speed[int] = Field(
        1, ge=1, description="GiB of memory for the key-value cache of an engine without a GPU."
    )

    @property
    def concurrent_batches(self) -> int:
        """Batches that one engine works on at once: so many that it stays full while the slowest rows of some are
        still decoding and others are being rendered or committed."""
        return 2 * -(-self.max_num_seqs // self.batch_size) + 1

    @model_validator(mode="after")
    def _possible(self) -> Engine:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas={self.min_replicas} is above max_replicas={self.max_replicas}")
        if self.gpus_per_replica > 1 and self.gpus_per_replica != int(self.gpus_per_replica):
            raise ValueError(
                f"gpus_per_replica={self.gpus_per_replica:g} is neither a whole number nor a share below 1; Ray gives "
                f"an engine whole GPUs, or a part of one"
            )
        wanted = self.tensor_parallel * self.pipeline_parallel
        if wanted > 1 and self.gpus_per_replica != wanted:
            raise ValueError(
                f"gpus_per_replica={self.gpus_per_replica:g} does not equal tensor_parallel x pipeline_parallel = "
                f"{wanted}; an engine that is split over GPUs needs one for each part"
            )
        return self


class Http(Section):
    """An OpenAI-compatible endpoint. The key comes from the environment variable named here, never from a file."""

    base_url: str = Field("http://127.0.0.1:8000/v1", description="Address of the endpoint, up to and with /v1.")
    model: str | None = Field(None, description="The model's name at the endpoint; null: model.path.")
    key_env: Speed[str] = Field(
        "OPENAI_API_KEY",
        description="Name of the environment variable that holds the key. An https address must find it set; '' "
        "where it wants no key.",
    )
    concurrency: Speed[int] = Field(
        32,
        ge=1,
        description="Requests in flight at once, and connections. Lower it for a server that is easily overloaded.",
    )
    vllm_extras: bool = Field(
        True,
        description="Ask for what only vLLM's server knows: top_k and the sampled token ids. Set it to false for any "
        "other server; OpenAI refuses these fields.",
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields that are put into every request, or taken out of it by null: {temperature: null, "
        "reasoning_effort: low}. For endpoints that name or refuse some.",
    )
    timeout_s: Speed[float] = Field(600, gt=0, description="Seconds for one whole response.")
    max_retries: Speed[int] = Field(
        8,
        ge=0,
        description="Further tries of a request after 5xx, timeouts and broken bodies; a 429 uses up none of them.",
    )
    max_backoff_s: Speed[float] = Field(
        60, gt=0, description="Longest pause between two tries, in seconds, unless the server asks for more."
    )
    price_prompt: Speed[float] = Field(
        0, ge=0, description="Price of a million prompt tokens, in your currency; needed by budget."
    )
    price_completion: Speed[float] = Field(
        0, ge=0, description="Price of a million completion tokens, in your currency; needed by budget."
    )
    price_cached: Speed[float | None] = Field(
        None,
        ge=0,
        description="Price of a million prompt tokens that the endpoint says it had in its prefix cache; null: that "
        "of the others.",
    )
    price_cache_write: Speed[float | None] = Field(
        None,
        ge=0,
        description="Price of a million prompt tokens that the endpoint says it wrote into its prefix cache "
        "(Anthropic's models, 1.25 times the others'); null: that of the others.",
    )
    prompt_cache: Speed[Literal["plain", "key", "mark"]] = Field(
        "plain",
        description="How an endpoint is told that chats begin alike: not at all (plain; most notice by themselves), "
        "by the field prompt_cache_key (key; OpenAI), or by cache_control at the end of the instruction (mark; "
        "Anthropic's models behind a gateway). Other servers may refuse the field.",
    )
    currency: Speed[str] = Field("USD", description="Name of the money of the prices and the budget, as it is shown.")
    # Cached responses cost nothing; a budget needs a price to count by.
    budget: Speed[float | None] = Field(
        None,
        ge=0,
        description="Money that this run directory may spend at this endpoint, earlier runs on it included; then the "
        "run stops, and goes on when you raise it. null: no bound.",
    )
    requests_per_minute: Speed[float | None] = Field(
        None,
        gt=0,
        description="Requests in a minute; they are spread evenly. null: as fast as the endpoint answers.",
    )
    tokens_per_minute: Speed[float | None] = Field(
        None,
        gt=0,
        description="Tokens of prompts and answers in a minute, estimated beforehand and corrected by what the "
        "answer says it used. null: no bound.",
    )
    max_rate_limited_s: Speed[float] = Field(
        7200, gt=0, description="Seconds with nothing but 429 after which the run stops; the same command goes on."
    )
    batch: Speed[bool] = Field(
        False,
        description="Ask annotators and judges through the endpoint's Batch API (a day's patience, half the price): "
        "requests are gathered, uploaded together, and what a batch leaves unanswered is asked one by one.",
    )
    batch_requests: Speed[int] = Field(2000, ge=1, description="Most requests of one batch (OpenAI allows 50,000).")
    batch_gather_s: Speed[float] = Field(
        30, gt=0, description="Seconds without a further request after which what has gathered is uploaded."
    )
    batch_poll_s: Speed[float] = Field(30, gt=0, description="Seconds between two looks at a batch.")
    batch_price: Speed[float] = Field(
        0.5, ge=0, description="What a token of a batch costs, as a share of price_prompt and price_completion."
    )
    max_refusals: Speed[int | None] = Field(
        5,
        ge=1,
        description="Refusals of one kind in a row, with no answer between them, after which the run stops; null: "
        "refusals never stop it.",
    )

    @property
    def priced(self) -> bool:
        """Whether its money can be counted."""
        return bool(self.price_prompt or self.price_completion)

    def money(self, *, prompt: float, completion: float, prefix: float = 0, written: float = 0) -> Decimal:
        """What so many tokens cost, asked one by one; of those of the prompt `prefix` were in the endpoint's cache, and
        `written` others were put there."""
        cached = self.price_prompt if self.price_cached is None else self.price_cached
        write = self.price_prompt if self.price_cache_write is None else self.price_cache_write
        fresh_cost = Decimal(prompt - prefix - written) * Decimal(str(self.price_prompt))
        cached_cost = Decimal(prefix) * Decimal(str(cached)) + Decimal(written) * Decimal(str(write))
        completion_cost = Decimal(completion) * Decimal(str(self.price_completion))
        return (fresh_cost + cached_cost + completion_cost) / 1_000_000

    def most_money(self, *, prompt: float, completion: float) -> Decimal:
        """The most that so many tokens can cost: all of the prompt may be put into the endpoint's cache."""
        asked = {"prompt": prompt, "completion": completion}
        return max(self.money(**asked), self.money(**asked, written=prompt))

    @property
    def price_share(self) -> float:
        """What a token costs, as a share of the prices: less where annotators and judges are asked in batches."""
        return self.batch_price if self.batch else 1.0

    @property
    def live(self) -> Http:
        """The same endpoint, asked one by one."""
        return self.model_copy(update={"batch": False})
