"""What options hand on to the work below; the work itself has tests of its own."""

import pytest
from command_line import ran

from mralign.cli.display import said_of
from mralign.comparison import runs
from mralign.run import lease

ENDPOINT = '{base_url: "http://127.0.0.1:9/v1", model: m}'
LABELLER = f"discovery.labeller={{name: chat, engine: http, http: {ENDPOINT}}}"
WRITERS = {
    "align": ["run.dir=RUN", "--until", "questions"],
    "evaluate": ["run.dir=RUN"],
    "ablate": ["--table", "main", "run.dir=RUN"],
    "taxonomy": ["run.dir=RUN", LABELLER, "discovery.embedding.gpu=true"],
    "compare": ["--out", "RUN", "--worlds", "0"],
}


@pytest.mark.parametrize(("name", "take_over"), [*((name, True) for name in WRITERS), ("align", False)])
def test_take_over_reaches_the_lease(tmp_path, capsys, monkeypatch, name, take_over):
    asked = []

    def hold(uri, *, take_over=False):
        asked.append((str(uri), take_over))
        raise ValueError("the lease of the test")

    monkeypatch.setattr(lease, "hold", hold)
    given = [word.replace("RUN", str(tmp_path / "run")) for word in WRITERS[name]]
    status, _, errors = ran(capsys, name, *given, *(["--take-over"] if take_over else []))
    assert status == 2
    assert "stopped: the lease of the test" in errors
    assert asked == [(str(tmp_path / "run"), take_over)]


@pytest.mark.parametrize("common", [True, False])
def test_a_comparison_of_two_runs_gets_its_options(capsys, monkeypatch, common):
    asked = []
    monkeypatch.setattr(runs, "compare_runs", lambda *given, **more: asked.append((given, more)) or "compared")
    options = ["--common", "--out", "there"] if common else []
    status, said, _ = ran(capsys, "evaluate", "--compare", "a:sft", "b", *options)
    assert (status, said) == (0, "compared\n")
    assert asked == [(("a:sft", "b"), {"common": common, "out": "there" if common else None})]


def test_a_comparison_takes_no_settings(capsys):
    status, _, errors = ran(capsys, "evaluate", "--compare", "a", "b", "training.epochs=1")
    assert status == 2
    assert "--compare takes no settings" in errors


def test_no_value_of_a_setting_reaches_the_log():
    argv = ["mralign", "align", "--preset", "paper", "http.headers={Authorization: 'secret = 1\nsecret'}", "--dry-run"]
    assert said_of(argv) == "mralign align --preset paper http.headers=… --dry-run"
