"""At which moments of each stage a signal is sent, and which signal.

A moment that a stage does not have (a stage without workers starts none) is left out of its list. The kinds of ending
take turns, so that over all stages each of them comes at each kind of moment.
"""

from cells import MIDDLE
from moments import Moment

KINDS = ("SIGINT", "SIGTERM", "SIGHUP", "second SIGINT", "closed pipe")
ENGINE_STARTS = "call mralign.serving.vllm.start_engine"
STREAMS = "call mralign.run.stream._Worker.__init__"
TASK = "call mralign.run.stage._map_group .*{stage}"
# In the order of a stage's life.
MOMENTS = {
    "stage begins": "tell StageBegan.*stage='{stage}'",
    "work begins": "tell WorkBegan.*stage='{stage}'",
    "worker starts": None,
    "worker works": None,
    "file open": "write .*/{place}/",
    "next file open": "write .*/{place}/",
    "progress told": "tell (WorkAdvanced|TrainingStepped).*stage='{stage}'",
    "rejects read": "call mralign.run.store.StageDir.read_rejects {stage}( |$)",
    "before the seal": "call mralign.run.store.StageDir.seal {stage}( |$)",
    "manifest open": "write .*/{stage}/[^/]+/manifest.json",
    "stage ended": "tell StageEnded.*stage='{stage}'",
}
START = {
    "Ray is called": Moment("call mralign.run.local_ray._init"),
    "Ray's head starts": Moment("call ray._private.node.Node.start_head_processes"),
    "Ray's node starts": Moment("call ray._private.node.Node.start_ray_processes"),
}
REPORT = {
    "report begins": Moment("call mralign.report.publish"),
    "file open": Moment("write .*/report/"),
    "next file open": Moment("write .*/report/", 2),
    "cards": Moment("call mralign.plan.model_cards.complete_cards"),
}
STARTS = {  # "worker starts"
    "rollouts": ENGINE_STARTS,
    "responses_base": ENGINE_STARTS,
    "responses": ENGINE_STARTS,
    **dict.fromkeys(("annotation", "evidence", "judgements_base"), STREAMS),
    **dict.fromkeys(("candidates", "counts", "weights", "examples", "thoughts_base"), TASK),
    "matrices": "call mralign.transitions.matrices.estimate_named",
    "annotator_matrices": "call mralign.transitions.counts.count",
    "training": "call mralign.training.rehearsal.rehearse",
}
WORKS = {  # "worker works"
    **dict.fromkeys(("rollouts", "responses_base", "responses"), "call mralign.serving.warm.KeptEngine.answer_for"),
    "training": "call mralign.training.begin.begin",
}
PLACES = {"reference": "reference_by_content", "responses": "responses_by_content"}
PLACES["responses_base"] = "responses_by_content"
# They read their own rejects: those of a start before, or what they have put aside.
ASKING = ("questions", "rollouts", "annotation", "evidence", "responses_base", "judgements_base", "responses")
SILENT = ("matrices", "signal", "annotator_matrices", "agreement", "evaluation_base")  # they tell no work


def moments_of(stage):
    """The moments of a stage, or of `start` and `report`, by their names."""
    if stage in ("start", "report"):
        return START if stage == "start" else REPORT
    words = {**MOMENTS, "worker starts": STARTS.get(stage), "worker works": WORKS.get(stage)}
    if stage in SILENT:
        words = {**words, "work begins": None, "progress told": None}
    if stage not in ASKING:
        words = {**words, "rejects read": None}
    place = PLACES.get(stage, f"{stage}/[^/]+")
    found = {}
    for name, pattern in words.items():
        if pattern is not None:
            number = 2 if name == "next file open" else 1
            found[name] = Moment(pattern.format(stage=stage, place=place), number)
    return found


def planned():
    """(stage, name of the moment, kind of ending), in order."""
    found = []
    for row, stage in enumerate(("start", *MIDDLE, "report")):
        # Of the report nothing is printed before the run has told its end, so that a closed pipe is found too late.
        kinds = KINDS[:4] if stage == "report" else KINDS
        for column, name in enumerate(moments_of(stage)):
            found.append((stage, name, kinds[(row + column) % len(kinds)]))
    return found
