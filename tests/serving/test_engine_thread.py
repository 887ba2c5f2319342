"""The thread of an engine, with a fake engine that keeps what it is asked; test_kept_engines.py has a real one."""

from types import SimpleNamespace

from mralign.serving.engine_thread import EngineThread


class FakeEngine:
    """It finishes every request at once."""

    def __init__(self):
        self.adapters, self.weights, self.waiting = [], [], []

    def collective_rpc(self, name, *, kwargs):
        self.weights.append((name, kwargs["weights_path"]))

    def reset_prefix_cache(self):
        pass

    def add_request(self, name, prompt, params, *, lora_request):
        self.adapters.append(lora_request)
        self.waiting.append(name)

    def step(self):
        done, self.waiting = self.waiting, []
        return [SimpleNamespace(request_id=name, finished=True) for name in done]


class Said:
    """What is new of a completion, as vLLM tells it."""

    def __init__(self, name, text, *, finished):
        self.request_id, self.finished = name, finished
        reason = "stop" if finished else None
        self.outputs = [SimpleNamespace(text=text, token_ids=[len(text)], finish_reason=reason)]

    def add(self, new, *, aggregate):
        assert aggregate
        (own,), (more,) = self.outputs, new.outputs
        own.text, own.token_ids = own.text + more.text, own.token_ids + more.token_ids
        own.finish_reason, self.finished = more.finish_reason, new.finished


class TellingEngine(FakeEngine):
    """It writes one of `words` a step for every request, and ends after the last."""

    def __init__(self, words):
        super().__init__()
        self.words, self.written, self.aborted = words, {}, []

    def abort_request(self, names):
        self.aborted += names
        self.waiting = [name for name in self.waiting if name not in names]

    def step(self):
        told = []
        for name in list(self.waiting):
            number = self.written[name] = self.written.get(name, 0) + 1
            finished = number == len(self.words)
            told.append(Said(name, self.words[number - 1], finished=finished))
            if finished:
                self.waiting.remove(name)
        return told


def test_a_watch_ends_its_request_alone_and_what_came_is_its_output():
    engine = TellingEngine(["one ", "two ", "three ", "four"])
    thread = EngineThread(engine)
    seen = []

    def enough(text, token_ids):
        seen.append((text, list(token_ids)))
        return "two" in text

    asked = [([1], SimpleNamespace()), ([2], SimpleNamespace())]
    ended, whole = thread.submit(asked, watches=[enough, lambda text, token_ids: False]).result(timeout=60)
    assert (ended.outputs[0].text, ended.outputs[0].finish_reason, ended.finished) == ("one two ", "length", True)
    assert (whole.outputs[0].text, whole.outputs[0].finish_reason) == ("one two three four", "stop")
    assert seen == [("one ", [4]), ("one two ", [4, 4])]
    assert engine.aborted == ["1"]


def test_what_comes_after_a_request_was_ended_is_dropped():
    class LateEngine(TellingEngine):
        def abort_request(self, names):
            self.aborted += names  # and tells of it once more

    thread = EngineThread(LateEngine(["one ", "two ", "three"]))
    (ended,) = thread.submit([([1], SimpleNamespace())], watches=[lambda *_: True]).result(timeout=60)
    assert ended.outputs[0].text == "one "
    (other,) = thread.submit([([1], SimpleNamespace())]).result(timeout=60)
    assert other.outputs[0].text == "three"  # not watched: the fake's last word


def test_a_completion_that_is_whole_is_not_cut():
    engine = TellingEngine(["one"])
    (found,) = EngineThread(engine).submit([([1], SimpleNamespace())], watches=[lambda *_: True]).result(timeout=60)
    assert found.outputs[0].finish_reason == "stop" and engine.aborted == []


def test_weights_that_are_exchanged_are_served_without_the_adapter_of_the_old_ones():
    engine = FakeEngine()
    thread = EngineThread(engine, lora="adapter")
    thread.submit([([1], None)]).result(timeout=60)
    thread.exchange_weights("trained")
    thread.submit([([1], None)]).result(timeout=60)
    assert engine.weights == [("reload_weights", "trained")]
    assert engine.adapters == ["adapter", None]
