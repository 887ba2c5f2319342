"""The same rollouts from an OpenAI-compatible endpoint in place of engines of our own.

Batches of requests enter; rows of schema GENERATIONS leave, as from `serving/vllm.py`. One actor holds the
endpoint, its cache and its purse, and asks for many rows at once. The prompt goes as token ids, and a vLLM server tells
the token ids that it sampled; from another server comes text only, which becomes the ids that write it after its prompt
(seam.py), with the model's own end where the model ended it.
When the budget is spent, the rest of the rows stay undone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mralign.chat.endings import ending_fault
from mralign.chat.model_files import tokenizer_path
from mralign.chat.prompts import Prompt
from mralign.chat.seam import Continuation, continuation, said_after, separate_ids, survives
from mralign.chat.turns import Turn, stop_tokens, turn_of
from mralign.rows import Generation, Request
from mralign.run.rejects import Reject
from mralign.run.store import Directory
from mralign.run.stream import Answer
from mralign.serving.calls import Call, Failure, Reply, Stopped
from mralign.serving.completions import Completion, amend, completion_payload, read_completion
from mralign.serving.draws_as_needed import settle_question
from mralign.serving.endpoint import Endpoint
from mralign.serving.requests import Sampling, renderer_of


class RemoteGenerator:
    """An actor of a stream (run/stream.py): one endpoint, several batches of requests at once."""

    def __init__(self, *, sampling: Sampling) -> None:
        path = tokenizer_path(sampling.model)
        self.renderer = renderer_of(sampling, path=path)
        tokenizer = self.renderer.tokenizer
        stops = stop_tokens(tokenizer, model_path=path)
        self.turns: dict[str, Turn] = {
            name: turn_of(tokenizer, mode=mode, stops=stops, tags=self.renderer.tags)
            for name, mode in self.renderer.modes.items()
        }
        self.sampling = sampling
        assert sampling.endpoint is not None
        self.http = sampling.endpoint.live  # draws follow from each other
        self.endpoint = Endpoint(self.http, cache=Directory(sampling.cache))

    async def answer(self, rows: list[dict[str, Any]]) -> list[Answer]:
        """What came of the requests; those that could not be sent any more say why."""
        if self.sampling.order is not None:
            return list(await asyncio.gather(*(self._settle(Request(**row)) for row in rows)))
        requests = {row["row_id"]: Request(**row) for row in rows}
        prompts = {row_id: await asyncio.to_thread(self.renderer.prepare, row) for row_id, row in requests.items()}
        came = {row_id: Answer(rejects=[said]) for row_id, said in prompts.items() if isinstance(said, Reject)}
        asked = {row_id: prompt for row_id, prompt in prompts.items() if isinstance(prompt, Prompt)}
        calls = [self._call(requests[row_id], prompt, limit=None) for row_id, prompt in asked.items()]
        stopped = ""
        try:
            async for call, reply in self.endpoint.stream(calls):
                row = self._row(requests[call.key_id], prompts[call.key_id], reply)
                came[call.key_id] = Answer(rejects=[row]) if isinstance(row, Reject) else Answer(rows=[vars(row)])
        except Stopped as reason:
            stopped = str(reason)
        return [came.get(row_id, Answer(stopped=stopped)) for row_id in requests]

    async def _settle(self, first: Request) -> Answer:
        """The draws of one question that are needed, or why it could not be asked any more: what was paid for by then
        stands in the cache."""
        assert self.sampling.order is not None
        try:
            return await settle_question(first, order=self.sampling.order, seed=self.sampling.seed, ask=self._draw)
        except Stopped as reason:
            return Answer(stopped=str(reason))

    async def _draw(self, request: Request, limit: int | None) -> Generation | Reject:
        prompt = await asyncio.to_thread(self.renderer.prepare, request)
        if isinstance(prompt, Reject):
            return prompt
        call = self._call(request, prompt, limit=limit)
        return self._row(request, prompt, await self.endpoint.complete(call))

    def figures(self) -> dict[str, Any]:
        """What the endpoint has done, and its money."""
        return {"endpoint": self.endpoint.tally.figures()}

    def _call(self, request: Request, prompt: Prompt, *, limit: int | None) -> Call:
        http, decoding = self.http, self.sampling.decoding
        payload = completion_payload(
            prompt.token_ids,
            model=http.model or self.sampling.model.path,
            decoding=decoding,
            max_tokens=self.renderer.max_tokens(prompt, limit=limit),
            seed=request.seed,
            vllm_extras=http.vllm_extras,
            keep_special=self.renderer.special_tags,
        )
        return Call(request.row_id, "/completions", amend(payload, changes=http.request))

    def _row(self, request: Request, prompt: Any, answer: Reply | Failure) -> Generation | Reject:
        completion = read_completion(answer.body) if isinstance(answer, Reply) else answer
        if isinstance(completion, Failure):
            question, dataset = request.question, request.dataset
            return Reject(request.row_id, completion.reason, completion.detail, question, dataset=dataset)
        found = self._continuation(completion, prompt=prompt, mode=request.mode)
        if found is None:
            detail = f"no token ids write {completion.text[:40]!r} after {prompt.text[-40:]!r}"
            return Reject(request.row_id, "no_seam", detail, completion.text, dataset=request.dataset)
        return self.renderer.row(
            request, prompt, text=found.text, token_ids=found.token_ids, finish_reason=completion.finish_reason
        )

    def _continuation(self, completion: Completion, *, prompt: Prompt, mode: str) -> Continuation | None:
        tokenizer, text, ids = self.renderer.tokenizer, completion.text, completion.token_ids
        if ids is not None and isinstance(completion.stopped_by, str):  # the ids hold the stop text, the text does not
            keep = self.renderer.special_tags
            return Continuation(list(ids), said_after(tokenizer, prompt=prompt, token_ids=ids, keep_special=keep))
        if ids is not None:
            return Continuation(list(ids), text)
        end = self._end(completion, mode=mode)
        found = continuation(tokenizer, prompt=prompt, text=text, end=end)
        if found is None and not (mode == "on" and survives(tokenizer, text=text)):
            return Continuation(separate_ids(tokenizer, text=text, end=end), text)
        return found

    def _end(self, completion: Completion, *, mode: str) -> str:
        """What the model wrote to end the text; nothing where it did not end it, or a stop text may have."""
        if ending_fault(completion.finish_reason) or isinstance(completion.stopped_by, str):
            return ""
        if completion.stopped_by is not None:
            return str(self.renderer.tokenizer.convert_ids_to_tokens(completion.stopped_by))
        if self.http.request.get("stop") and not completion.tells_stop:
            return ""
        return self.turns[mode].end
