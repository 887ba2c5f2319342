"""How many tokens of real first thoughts are not drawn, where the development data lie: 800 of Qwen3-8B.

The traces tell their tokens. Where in a thought a token stands is taken from its characters.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rollouts.test_candidates import generation

from mralign.chat.thought import split_thinking
from mralign.rollouts import DrawsAsNeeded, Limits
from mralign.rows import Mode
from mralign.serving.engine_thread import WATCHED_EVERY

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces" / "qwen3-8b_simpleqa.jsonl"
LIMITS = Limits()
ORDER = DrawsAsNeeded("paper", 3, LIMITS, False)


def begun(text, *, tokens):
    """A first thought that has come so far."""
    split = split_thinking(text, finish_reason="length")
    place = {"thought_start": split.thought_start, "thought_end": split.thought_end}
    row = replace(generation("q/1", "on", 0, ""), text=text, answer=None, invalid=split.invalid, **place)
    return replace(row, thought_tokens=tokens, completion_tokens=tokens)


def ended_after(trace):
    """Tokens after which the thought is ended; None: it is drawn to its end."""
    thought, total = trace["thought"], trace["thinking_tokens"]
    for tokens in range(1, total, WATCHED_EVERY):
        text = thought[: round(len(thought) * tokens / total)]
        if ORDER.may_be_enough(text, tokens=tokens) and ORDER.why_cut(begun(text, tokens=tokens)) is not None:
            return tokens
    return None


@pytest.mark.skipif(not TRACES.exists(), reason="the real traces of ../shared/data are not on this machine")
def test_what_is_not_drawn_of_real_thoughts():
    limit = ORDER.enough_tokens(Mode.ON, 0)
    whole = capped = watched = ended = 0
    for line in TRACES.read_text(encoding="utf-8").splitlines():
        trace = json.loads(line)
        thinking, total = trace["thinking_tokens"], trace["thinking_tokens"] + trace["response_tokens"]
        parts = [part for part in trace["thought"].partition("</think>")[0].split("\n\n") if part.strip()]
        too_many, too_long = len(parts) >= LIMITS.max_segments, thinking >= LIMITS.max_thought_tokens
        stop = ended_after(trace)
        assert stop is None or too_many or too_long
        whole, capped = whole + total, capped + min(total, limit)
        watched, ended = watched + (stop or min(total, limit)), ended + (stop is not None)
    assert (whole, capped / whole) == (500_786, pytest.approx(0.983, abs=5e-4))
    assert (ended, watched / whole) == (62, pytest.approx(0.962, abs=5e-4))


def mean_tokens(path):
    traces = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    tokens = [trace.get("thinking_tokens", 0) + trace["response_tokens"] for trace in traces]
    return sum(tokens) / len(tokens)


@pytest.mark.skipif(not TRACES.exists(), reason="the real traces of ../shared/data are not on this machine")
def test_the_arithmetic_for_the_papers_questions():
    """docs/results.md: 168 million tokens in all draws, and .39 of them, where 4,070 + 1,785 questions are kept."""
    questions, kept = 87_925, 4_070 + 1_785
    short = mean_tokens(TRACES.with_name("qwen3-8b_simpleqa_no_think.jsonl"))
    thought = mean_tokens(TRACES)
    assert (round(thought), round(short), round(100 * kept / questions)) == (626, 9, 7)
    every = questions * 3 * (thought + short)
    assert round(every / 1e6) == 168
    needed = questions * (3 * short + thought) + kept * 2 * thought
    assert needed / every == pytest.approx(0.387, abs=5e-4)
    assert (needed - 0.038 * questions * thought) / every == pytest.approx(0.3745, abs=5e-4)
