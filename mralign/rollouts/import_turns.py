"""From what a file of rollouts says to the row that the model's own engine would have made of it.

A record of a file of one mode enters, with the request that it answers; a generation leaves, or why there is none. Such
files carry text only: it becomes the ids that the model to be trained would have written after its own prompt
(chat/seam.py), and everything later works on those as on sampled ones.
"""

from __future__ import annotations

from mralign.chat.endings import ending_fault
from mralign.chat.model_files import load_tokenizer, tokenizer_path
from mralign.chat.prompts import Prompt
from mralign.chat.seam import Continuation, continuation, separate_ids, survives, without_prefill
from mralign.chat.turns import cut_end, stop_tokens, turn_of
from mralign.config import Decoding, Engine, Model
from mralign.rollouts.import_files import Imported
from mralign.rows import Generation, Mode, Reject, Request
from mralign.serving.requests import Renderer, Sampling, family_of

_NO_ENGINE = Engine(max_model_len=2**31)  # nothing is sampled: examples.max_length judges the length later


class RolloutWriter:
    """From what a record says to the row that the model's own engine would have made of it."""

    def __init__(self, *, mode: Mode, model: Model, prompt: str, tags: tuple[str, str] | None) -> None:
        path = tokenizer_path(model)
        sampling = Sampling(model=model, engine=_NO_ENGINE, decoding=Decoding(), prompt=prompt)
        self.tokenizer = load_tokenizer(path, model=model)
        self.renderer = Renderer(sampling, tokenizer=self.tokenizer, family=family_of(model, path=path))
        self.thinks = mode == Mode.ON
        self.mode = self.renderer.modes[mode]
        stops = stop_tokens(self.tokenizer, model_path=path)
        self.turn = turn_of(self.tokenizer, mode=self.mode, stops=stops, tags=model.thought_tags)
        self.tags = tags or model.thought_tags

    def row(self, rollout: Imported, *, request: Request) -> Generation | Reject:
        """The generation, or why there is none."""
        prompt = self.renderer.prepare(request)
        if isinstance(prompt, Reject):
            return prompt
        thought = rollout.thought if self.thinks else ""
        response, end = cut_end(rollout.response, turn=self.turn, tokenizer=self.tokenizer)
        whole = self._opened(self._joined(thought, response), prompt=prompt)
        text = without_prefill(whole, prompt=prompt, mode=self.mode, turn=self.turn)
        if text is None:
            detail = f"the prompt ends in {prompt.text[-40:]!r}, the text begins {whole[:40]!r}"
            return Reject(request.row_id, "prefill_differs", detail, rollout.raw, dataset=request.dataset)
        if ending_fault(rollout.finish_reason):
            end = ""
        written = self._continuation(prompt, text=text, end=end)
        if written is None:
            detail = f"no token ids write {text[:40]!r} after {prompt.text[-40:]!r}, though some write it alone"
            return Reject(request.row_id, "no_seam", detail, rollout.raw, dataset=request.dataset)
        return self.renderer.row(
            request,
            prompt,
            text=written.text,
            token_ids=written.token_ids,
            finish_reason=rollout.finish_reason,
        )

    def _continuation(self, prompt: Prompt, *, text: str, end: str) -> Continuation | None:
        """Ids and text; where no ids spell the text at all, it can still be judged and annotated, and the stage
        `examples` refuses it."""
        written = continuation(self.tokenizer, prompt=prompt, text=text, end=end)
        if written is not None:
            return written
        if self.thinks and survives(self.tokenizer, text=text):
            return None
        return Continuation(separate_ids(self.tokenizer, text=text, end=end), text)

    def _joined(self, thought: str, response: str) -> str:
        """The whole turn, its thought in the model's own tags."""
        opening, closing = self.tags
        if thought.strip() and closing not in response:
            bare = thought.strip()
            if not bare.endswith(closing):  # its own field says where it ends
                return self._in_own_form(bare.removeprefix(opening), answer=response)
            between = "" if thought[-1].isspace() else "\n\n"
            response = thought + between + response
        if self.tags == self.turn.tags:
            return response
        head, opened, rest = response.partition(opening)
        inner, closed, answer = (rest if opened else response).partition(closing)
        before = head.strip() if opened else ""
        if not closed or before or opening in inner or closing in answer:
            return response.replace(opening, self.turn.tags[0]).replace(closing, self.turn.tags[1])
        return self._in_own_form(inner, answer=answer)

    def _opened(self, text: str, *, prompt: Prompt) -> str:
        """The text with an opening tag where it has a closing one only (the prompt of another model had opened the
        block) and this model writes both."""
        opening, closing = self.turn.tags
        thought, closed, answer = text.partition(closing)
        if not self.thinks or prompt.opened or not closed or opening in text:
            return text
        return self._in_own_form(thought, answer=answer)

    def _in_own_form(self, thought: str, *, answer: str) -> str:
        return self.turn.thought_before + thought.strip() + self.turn.thought_after + answer.lstrip()
