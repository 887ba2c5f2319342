"""Models and how they are served: families, decoding, vLLM engines, endpoints."""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from mralign.config.section import Content, Section, Speed

_ADAPTER = "adapter, merged in way 2"  # another way is named where another model comes of the same adapter


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

    path: Content[str] = Field("pkg://mralign.miniworld/data/model", description="Model directory or hub name.")
    adapter: Content[str | None] = Field(
        None, description="LoRA adapter directory on top of `path`; the policy is then both."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    trust_remote_code: bool = False
    family: str = Field("auto", description="How thinking is switched: a name in chat/families.py, or auto.")
    think_on: ThinkMode | None = Field(None, description="In place of the family's way; goes with think_off.")
    think_off: ThinkMode | None = None
    thought_tags: tuple[str, str] = Field(
        ("<think>", "</think>"),
        description="What the model writes before and after a thought, e.g. ['[THINK]', '[/THINK]'] (Magistral).",
        exclude_if=lambda tags: tags == ("<think>", "</think>"),
    )
    template_date: datetime.date | None = Field(
        None,
        description="The day that a chat template writes for today; null is the day on which the run directory was "
        "made. It means nothing to a template without a date.",
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

    temperature: float = Field(0.2, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0 keeps the whole vocabulary.")
    max_tokens: int = Field(8192, ge=1)


class Engine(Section):
    """vLLM: one engine per replica."""

    min_replicas: Speed[int] = Field(1, ge=1, description="Engines kept while there is work.")
    max_replicas: Speed[int] = Field(
        1, ge=1, description="Engines that may run at once: Ray Data scales between the two."
    )
    cpus_per_replica: Speed[int] = Field(1, ge=1, description="Also the threads of an engine without a GPU.")
    gpus_per_replica: Speed[float] = Field(
        0, ge=0, description="GPUs of one engine: tensor_parallel x pipeline_parallel."
    )
    tensor_parallel: Speed[int] = Field(1, ge=1)
    pipeline_parallel: Speed[int] = Field(1, ge=1)
    max_model_len: int = Field(8192, ge=16)
    max_num_seqs: Speed[int] = Field(64, ge=1, description="Sequences that one engine decodes together.")
    batch_size: Speed[int] = Field(64, ge=1, description="Requests that are committed together as one part.")
    enforce_eager: Speed[bool] = False
    gpu_memory_utilization: Speed[float] = Field(0.9, gt=0, le=1)
    cpu_kv_cache_gib: Speed[int] = Field(1, ge=1, description="Key-value cache of an engine without a GPU.")

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

    base_url: str = Field("http://127.0.0.1:8000/v1", description="Up to and with /v1.")
    model: str | None = Field(None, description="The name the endpoint knows; null is model.path.")
    key_env: Speed[str] = Field("OPENAI_API_KEY", description="Environment variable that holds the key; unset: no key.")
    concurrency: Speed[int] = Field(32, ge=1, description="Requests in flight, and connections.")
    vllm_extras: bool = Field(
        True, description="Ask for what only vLLM's server knows: top_k and the sampled token ids. OpenAI refuses it."
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields put into every request, or taken out by null: {temperature: null, reasoning_effort: low}.",
    )
    timeout_s: Speed[float] = Field(600, gt=0, description="Seconds for one whole response.")
    max_retries: Speed[int] = Field(
        8, ge=0, description="Further tries of a request after 429, 5xx, timeouts, broken bodies."
    )
    max_backoff_s: Speed[float] = Field(
        60, gt=0, description="Longest wait between tries, unless Retry-After asks for more."
    )
    price_prompt: Speed[float] = Field(0, ge=0, description="Money for a million prompt tokens.")
    price_completion: Speed[float] = Field(0, ge=0, description="Money for a million completion tokens.")
    # Cached responses cost nothing; a budget needs a price to count by.
    budget: Speed[float | None] = Field(
        None, ge=0, description="Money that this run directory may spend here, earlier runs on it included."
    )
    requests_per_minute: Speed[float | None] = Field(
        None, gt=0, description="Requests are spread so that no more are sent; null: as fast as it answers."
    )
    tokens_per_minute: Speed[float | None] = Field(
        None, gt=0, description="The same for tokens of prompts and answers: estimated, then corrected by the usage."
    )
    max_rate_limited_s: Speed[float] = Field(
        7200, gt=0, description="Seconds with nothing but 429 after which the run stops; the next one goes on."
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
        description="Refusals of one kind in a row, and no answer, after which the run stops; null: none stops it.",
    )
