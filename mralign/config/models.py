"""Models and how they are served: families, decoding, vLLM engines, endpoints."""

from __future__ import annotations

import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from mralign.config.section import CONTENT, SPEED, Section

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

    path: str = Field(
        "pkg://mralign.miniworld/data/model", description="Model directory or hub name.", json_schema_extra=CONTENT
    )
    adapter: str | None = Field(
        None, description="LoRA adapter directory on top of `path`; the policy is then both.", json_schema_extra=CONTENT
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

    min_replicas: int = Field(1, ge=1, description="Engines kept while there is work.", json_schema_extra=SPEED)
    max_replicas: int = Field(
        1, ge=1, description="Engines that may run at once: Ray Data scales between the two.", json_schema_extra=SPEED
    )
    cpus_per_replica: int = Field(
        1, ge=1, description="Also the threads of an engine without a GPU.", json_schema_extra=SPEED
    )
    gpus_per_replica: float = Field(
        0, ge=0, description="GPUs of one engine: tensor_parallel x pipeline_parallel.", json_schema_extra=SPEED
    )
    tensor_parallel: int = Field(1, ge=1, json_schema_extra=SPEED)
    pipeline_parallel: int = Field(1, ge=1, json_schema_extra=SPEED)
    max_model_len: int = Field(8192, ge=16)
    max_num_seqs: int = Field(
        64, ge=1, description="Sequences that one engine decodes together.", json_schema_extra=SPEED
    )
    batch_size: int = Field(
        64, ge=1, description="Requests that are committed together as one part.", json_schema_extra=SPEED
    )
    enforce_eager: bool = Field(False, json_schema_extra=SPEED)
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, json_schema_extra=SPEED)
    cpu_kv_cache_gib: int = Field(
        1, ge=1, description="Key-value cache of an engine without a GPU.", json_schema_extra=SPEED
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

    base_url: str = Field("http://127.0.0.1:8000/v1", description="Up to and with /v1.")
    model: str | None = Field(None, description="The name the endpoint knows; null is model.path.")
    key_env: str = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the key; unset: no key.", json_schema_extra=SPEED
    )
    concurrency: int = Field(32, ge=1, description="Requests in flight, and connections.", json_schema_extra=SPEED)
    vllm_extras: bool = Field(
        True, description="Ask for what only vLLM's server knows: top_k and the sampled token ids. OpenAI refuses it."
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields put into every request, or taken out by null: {temperature: null, reasoning_effort: low}.",
    )
    timeout_s: float = Field(600, gt=0, description="Seconds for one whole response.", json_schema_extra=SPEED)
    max_retries: int = Field(
        8,
        ge=0,
        description="Further tries of a request after 429, 5xx, timeouts, broken bodies.",
        json_schema_extra=SPEED,
    )
    max_backoff_s: float = Field(
        60, gt=0, description="Longest wait between tries, unless Retry-After asks for more.", json_schema_extra=SPEED
    )
    price_prompt: float = Field(0, ge=0, description="Money for a million prompt tokens.", json_schema_extra=SPEED)
    price_completion: float = Field(
        0, ge=0, description="Money for a million completion tokens.", json_schema_extra=SPEED
    )
    # Cached responses cost nothing; a budget needs a price to count by.
    budget: float | None = Field(
        None,
        ge=0,
        description="Money that this run directory may spend here, earlier runs on it included.",
        json_schema_extra=SPEED,
    )
