"""Why a model stopped writing, and whether what it wrote is whole.

The finish reason of an engine, an endpoint or a file enters; None leaves where the model ended by itself, else the
reason why the text cannot be judged. It is an allow-list: a word that is not known here (content_filter, tool_calls,
refusal, abort, error, whatever a provider adds next) puts the text aside, as does one that is missing. The words are
those of the providers' documentation, compared without regard to case.
"""

from __future__ import annotations

WHOLE = frozenset(
    {
        "stop",  # OpenAI, vLLM, SGLang, Gemini, Mistral, DeepSeek, Ollama: the end of the turn, or a stop sequence
        "eos",  # Together, llama.cpp
        "eos_token",  # text-generation-inference
        "end_turn",  # Anthropic, Bedrock
        "stop_sequence",  # Anthropic, Cohere, text-generation-inference
        "word",  # llama.cpp: a stop sequence
        "complete",  # Cohere
        "completed",  # OpenAI's responses
        "finish",  # Titan
        "finished",  # Titan
        "end_id",  # TensorRT-LLM
        "stop_words",  # TensorRT-LLM
        "normal",  # ERNIE
        "stop_criteria_met",  # Titan
        "endoftext",  # AI21
    }
)
CUT = frozenset(
    {
        "length",
        "max_tokens",  # Anthropic, Gemini, Cohere
        "max_output_tokens",  # OpenAI's responses
        "model_length",  # Mistral
        "model_context_window_exceeded",  # Anthropic
        "error_limit",  # Cohere
        "limit",  # llama.cpp
        "token_limit",  # watsonx
    }
)
TRUNCATED, UNFINISHED = "truncated", "unfinished"


def ending_fault(finish_reason: object) -> str | None:
    """None where the text is whole; `truncated` where a limit of tokens cut it; `unfinished` for everything else."""
    if not isinstance(finish_reason, str):
        return UNFINISHED
    # Python prints Gemini's enumeration as FinishReason.STOP.
    word = finish_reason.strip().rpartition(".")[2].lower().replace("-", "_")
    if word in WHOLE:
        return None
    return TRUNCATED if word in CUT else UNFINISHED
