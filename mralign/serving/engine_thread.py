"""The thread that alone touches a `vllm.LLMEngine`, and the requests that are in it.

Requests enter in batches, from any thread; vLLM's finished outputs leave through a future a batch. The thread adds
every request as it comes and steps as long as one is unfinished. A request may have a watch, which sees what has come
of it once every few tokens and says when no more is needed: it is then ended in vLLM, and what came is its output.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

log = logging.getLogger("mralign")

WATCHED_EVERY = 16  # tokens

# Says of the text and the token ids of a completion so far whether no more of it is needed.
Watch = Callable[[str, Sequence[int]], bool]


class _Batch:
    """Requests that are answered together: one wake-up of the asker for all of them."""

    def __init__(self, size: int) -> None:
        self.results: list[Any] = [None] * size
        self.left = size
        self.future: Future[list[Any]] = Future()
        if not size:
            self.future.set_result([])

    def put(self, place: int, result: Any) -> None:
        self.results[place] = result
        self.left -= 1
        if not self.left:
            self.future.set_result(self.results)


@dataclass
class _Pending:
    """A request in the engine: where its output goes, and what has come of it if it is watched."""

    batch: _Batch
    place: int
    watch: Watch | None
    so_far: Any = None

    def came(self, output: Any) -> Any:
        """The whole output so far, of which `output` is what is new if the request is watched."""
        if self.watch is None:
            return output
        if self.so_far is None:
            self.so_far = output
        else:
            self.so_far.add(output, aggregate=True)
        return self.so_far

    def is_enough(self) -> bool:
        """Whether the watch wants no more."""
        if self.watch is None or self.so_far is None:
            return False
        (said,) = self.so_far.outputs
        return self.watch(said.text, said.token_ids)


class EngineThread:
    """A `vllm.LLMEngine` and the thread that alone touches it."""

    def __init__(self, engine: Any, *, lora: Any = None) -> None:
        self.engine, self.lora = engine, lora
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: dict[str, _Pending] = {}
        self._number = 0
        sys.setswitchinterval(0.0005)  # the engine's short steps would wait 5 ms for each turn of another thread
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def submit(
        self, requests: Sequence[tuple[list[int], Any]], *, watches: Sequence[Watch | None] = ()
    ) -> Future[list[Any]]:
        """Ask for one completion a (prompt token ids, SamplingParams); the future holds, in order, vLLM's finished
        RequestOutputs, or the exception with which vLLM refused a request.

        `watches`: one a request, or none at all. What a watch has ended has the finish reason `length`.
        """
        batch = _Batch(len(requests))
        self._inbox.put(lambda: self._add(requests, batch, watches or [None] * len(requests)))
        return batch.future

    def logps(self, *, prompt_ids: list[int], completion_ids: list[int]) -> np.ndarray:
        """The engine's log-probabilities of the tokens of a given completion, (T,)."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        (output,) = self.submit([(prompt_ids + completion_ids, params)]).result()
        if isinstance(output, BaseException):
            raise output
        scored = output.prompt_logprobs[len(prompt_ids) :]
        return np.array([entry[token].logprob for entry, token in zip(scored, completion_ids, strict=True)])

    def call(self, function: Callable[[Any], Any]) -> Any:
        """`function(engine)` in the engine's thread, between two steps."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(self.engine))
            except Exception as error:
                future.set_exception(error)

        self._inbox.put(run)
        return future.result()

    def exchange_weights(self, path: str) -> None:
        """Serve the weights in the directory `path`, a model that differs from the served one in nothing else; an
        adapter that was served beside the old weights is not served any more.

        vLLM leaves tied output heads as they were: compare the engine with a probe of the new model afterwards.
        """
        self.call(lambda engine: engine.collective_rpc("reload_weights", kwargs={"weights_path": path}))
        self.lora = None
        self.forget_prefixes()

    def forget_prefixes(self) -> None:
        """Empty the cache of prompt prefixes, so that what is asked next is computed as in a new engine."""
        self.call(lambda engine: engine.reset_prefix_cache())

    def _add(self, requests: Sequence[tuple[list[int], Any]], batch: _Batch, watches: Sequence[Watch | None]) -> None:
        for place, ((token_ids, params), watch) in enumerate(zip(requests, watches, strict=True)):
            self._number += 1
            name = str(self._number)
            if watch is not None:
                _tell_on_the_way(params)
            try:
                self.engine.add_request(name, {"prompt_token_ids": token_ids}, params, lora_request=self.lora)
            except Exception as error:  # vLLM refuses one request; the others go on
                batch.put(place, error)
            else:
                self._waiting[name] = _Pending(batch, place, watch)

    def _run(self) -> None:
        try:
            while True:
                self._take(block=not self._waiting)
                for output in self.engine.step() if self._waiting else ():
                    self._came(output)
        except BaseException:
            # An actor without an engine is of no use, and its requests would wait for ever: Ray starts another.
            log.exception("the engine has failed")
            os._exit(1)

    def _came(self, output: Any) -> None:
        name = output.request_id
        asked = self._waiting.get(name)
        if asked is None:  # it was ended, and this was on its way
            return
        whole = asked.came(output)
        if not whole.finished and asked.is_enough():
            self.engine.abort_request([name])
            whole.outputs[0].finish_reason, whole.finished = "length", True
        if whole.finished:
            del self._waiting[name]
            asked.batch.put(asked.place, whole)

    def _take(self, *, block: bool) -> None:
        if block:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()


def _tell_on_the_way(params: Any) -> None:
    """Let vLLM tell of a request what is new, once every WATCHED_EVERY tokens."""
    from vllm.sampling_params import RequestOutputKind

    params.output_kind, params.stream_interval = RequestOutputKind.DELTA, WATCHED_EVERY
