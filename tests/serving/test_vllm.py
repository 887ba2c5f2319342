"""The thread of an engine, with a fake engine that keeps what it is asked; test_kept_engines.py has a real one."""

from types import SimpleNamespace

from mralign.serving.vllm import EngineThread


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


def test_weights_that_are_exchanged_are_served_without_the_adapter_of_the_old_ones():
    engine = FakeEngine()
    thread = EngineThread(engine, lora="adapter")
    thread.submit([([1], None)]).result(timeout=60)
    thread.exchange_weights("trained")
    thread.submit([([1], None)]).result(timeout=60)
    assert engine.weights == [("reload_weights", "trained")]
    assert engine.adapters == ["adapter", None]
