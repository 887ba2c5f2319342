"""Discovery: planted clusters come back, their names become a taxonomy that annotation reads, and a picture."""

import asyncio
import json
import random
import xml.etree.ElementTree as ET
from collections import Counter

import jsonschema
import numpy as np
import pyarrow as pa
import pytest
from annotation.planted_names import CONCEPTS, planted_names
from hypothesis import given, settings
from hypothesis import strategies as st
from minilm import MISSING, find_minilm, save_minilm
from sklearn.cluster import OPTICS
from sklearn.metrics import adjusted_rand_score, silhouette_score

from mralign.annotation import cluster_map, discovery, naming
from mralign.annotation.discovery import NOISE, Clusters, cluster
from mralign.annotation.discovery_stage import sample
from mralign.annotation.naming import Strategy, assemble, naming_request, naming_schema, read_naming
from mralign.annotation.open_interview import OpenLabelling, name_clusters
from mralign.annotation.taxonomy import load_taxonomy
from mralign.asking.interview import ask
from mralign.asking.json_reply import Fault
from mralign.config import Discovery, Embedding
from mralign.rows.schema import CANDIDATES
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject
from mralign.run.store import StageDir
from mralign.serving.calls import Failure, Stopped
from mralign.serving.conversation import ChatReply, ChatRequest, Message

SETTINGS = Discovery()


class FakeChat:
    """Not a model: a function answers. It counts how often each request came."""

    def __init__(self, answer):
        self.answer, self.asked = answer, Counter()

    async def reply(self, request):
        self.asked[request.key_id, len(request.messages)] += 1
        await asyncio.sleep(0)
        said = self.answer(request)
        return said if isinstance(said, Failure) else ChatReply(said, "stop", 10, 5)


def rows_of(*names):
    return [{"steps": [{"labels": list(labels)} for labels in names]}]


def agreement(planted, found):
    """Adjusted Rand index over the names in clusters, over all (noise as one cluster), and the share of noise."""
    planted, inside = np.array(planted), found != NOISE
    return (
        adjusted_rand_score(planted[inside], found[inside]),
        adjusted_rand_score(planted, found),
        1 - inside.mean(),
    )


def blobs(*, clusters, names, noise, seed=0, dimensions=64, spread=0.35):
    """Directions around planted centres, the last `noise` of them anywhere, at lengths that mean nothing."""
    dice = np.random.default_rng(seed)
    planted = np.concatenate([np.arange(names - noise) % clusters, np.full(noise, NOISE)])
    centre = dice.normal(size=(clusters, dimensions)) / np.sqrt(dimensions)
    away = dice.normal(size=(names, dimensions)) / np.sqrt(dimensions)
    points = np.where(planted[:, None] == NOISE, away, centre[planted] + spread * away)
    frequency = {f"name_{i}": int(f) for i, f in enumerate(dice.integers(5, 50, size=names))}
    return frequency, (points * dice.uniform(0.1, 10, size=(names, 1))).astype(np.float32), planted


def test_names_are_counted_by_instance_and_rare_ones_left_out():
    counts = discovery.name_counts(rows_of(("b", "a"), ("b",)) + rows_of(("b",), ("c", "a")))
    assert list(counts.items()) == [("b", 3), ("a", 2), ("c", 1)]
    assert discovery.frequent(counts, min_frequency=2) == {"b": 3, "a": 2}
    with pytest.raises(ValueError, match="none of 3 names occurs 4 times; the most frequent one occurs 3 times"):
        discovery.frequent(counts, min_frequency=4)


def test_planted_embeddings_are_recovered_from_2000_names():
    frequency, embedding, planted = blobs(clusters=12, names=2000, noise=400)
    found = cluster(frequency, embedding_ND=embedding, settings=SETTINGS)
    inside, everything, noise = agreement(planted, found.cluster_N)
    assert found.count == 12
    assert inside > 0.95 and everything > 0.9
    planted_noise = found.cluster_N[planted == NOISE] == NOISE
    assert planted_noise.mean() > 0.95 and noise < 0.3
    again = silhouette_score(
        embedding[found.cluster_N != NOISE], found.cluster_N[found.cluster_N != NOISE], metric="cosine"
    )
    assert found.silhouette == pytest.approx(again, abs=1e-5)
    sizes = [found.instances(c) for c in range(found.count)]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) + found.instances(NOISE) == sum(frequency.values())


@pytest.mark.skipif(find_minilm() is None, reason=MISSING)
@pytest.mark.slow
def test_planted_texts_are_recovered_through_a_real_sentence_model(tmp_path):
    from mralign.serving.embedding import embed

    planted = planted_names()
    assert len(planted) == 2000
    texts = [discovery.as_text(name) for name in planted]
    embedding = embed(texts, settings=Embedding(engine="sentence_transformers", path=str(save_minilm(tmp_path))))
    found = cluster(dict.fromkeys(planted, 5), embedding_ND=embedding, settings=SETTINGS)
    inside, everything, noise = agreement(list(planted.values()), found.cluster_N)
    print(f"{discovery.describe(found)}; adjusted Rand index {inside:.3f} without noise, {everything:.3f} with")
    assert inside > 0.95 and noise < 0.3
    assert 10 <= found.count <= 12 and found.silhouette > 0.3
    typical = discovery.representatives(found, embedding_ND=embedding, limit=10)
    assert {planted[names[0]] for names in typical} == set(range(len(CONCEPTS)))  # no concept is lost
    assert all(len({planted[name] for name in names}) == 1 for names in typical)


def test_the_distances_are_those_of_sklearns_cosine_metric():
    frequency, embedding, _ = blobs(clusters=4, names=200, noise=40, seed=3)
    found = cluster(frequency, embedding_ND=embedding, settings=SETTINGS)
    own = OPTICS(min_samples=5, min_cluster_size=6, xi=0.05, metric="cosine").fit(embedding.astype(float)).labels_
    assert adjusted_rand_score(own, found.cluster_N) == 1.0
    assert ((own == NOISE) == (found.cluster_N == NOISE)).all()


def test_embeddings_without_a_direction_and_too_few_names_are_refused():
    frequency, embedding, _ = blobs(clusters=2, names=40, noise=0)
    for odd in (0.0, np.nan, np.inf):
        broken = embedding.copy()
        broken[7] = odd
        with pytest.raises(ValueError, match=r"\['name_7'\] \(1 names\) are zero or not finite"):
            cluster(frequency, embedding_ND=broken, settings=SETTINGS)
    with pytest.raises(ValueError, match="4 names occur often enough, a cluster has at least 5"):
        cluster(dict(list(frequency.items())[:4]), embedding_ND=embedding[:4], settings=SETTINGS)
    with pytest.raises(ValueError, match="allowed is one row a name"):
        cluster(frequency, embedding_ND=embedding[:4], settings=SETTINGS)


def test_more_than_64_clusters_are_refused_with_the_setting_that_helps():
    frequency, embedding, _ = blobs(clusters=70, names=700, noise=0, spread=0.1)
    with pytest.raises(ValueError, match=r"70 clusters.*1 to 64.*raise discovery\.min_cluster_share=0"):
        cluster(frequency, embedding_ND=embedding, settings=Discovery(min_cluster_share=0))


def test_representatives_are_the_names_nearest_to_the_weighted_mean():
    angles = np.radians([0, 10, 20, 80, 200])
    embedding = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    names = dict(zip("abcde", (1, 1, 1, 100, 7), strict=True))
    found = Clusters(tuple(names), names, np.array([0, 0, 0, 0, NOISE]), None)
    assert discovery.representatives(found, embedding_ND=embedding, limit=3) == [["d", "c", "b"]]


GOOD = {
    "cluster_1": {"name": "Recall Facts", "meaning": "brings up\n a fact", "macro": "Knowledge"},
    "cluster_2": {"name": "double-check", "meaning": "tests a claim", "macro": "Control"},
    "cluster_3": {"name": "infer", "meaning": "draws a conclusion", "macro": "Knowledge"},
}
STRATEGIES = (
    Strategy(name="recall_facts", meaning="brings up a fact", macro="Knowledge"),
    Strategy(name="double_check", meaning="tests a claim", macro="Control"),
    Strategy(name="infer", meaning="draws a conclusion", macro="Knowledge"),
)


def changed(key, **change):
    return GOOD | {key: GOOD[key] | change}


def test_the_naming_request_shows_each_cluster_and_its_reply_is_read():
    request = naming_request([["a", "b"], ["c"], ["d"]], frequency={"a": 9, "b": 5, "c": 7, "d": 6})
    assert request.messages[-1].content == "cluster_1: a (9), b (5)\ncluster_2: c (7)\ncluster_3: d (6)"
    jsonschema.validate(GOOD, request.schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(GOOD, naming_schema(2))
    assert read_naming(f"Sure:\n```json\n{json.dumps(GOOD)}\n```", clusters=3) == STRATEGIES


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("none", "not_json"),
        ({k: v for k, v in GOOD.items() if k != "cluster_3"}, "wrong_shape"),
        (GOOD | {"cluster_4": GOOD["cluster_1"]}, "wrong_shape"),
        (GOOD | {"cluster_2": "double_check"}, "wrong_shape"),
        (changed("cluster_2", name="recall facts"), "bad_labels"),
        (changed("cluster_2", name="!?"), "bad_labels"),
        (changed("cluster_2", name="x" * 61), "bad_labels"),
        (changed("cluster_2", name=None), "bad_labels"),
        (changed("cluster_2", meaning=" "), "bad_labels"),
        (changed("cluster_2", meaning="x" * 301), "bad_labels"),
        (changed("cluster_2", meaning="a\ud800"), "bad_labels"),
        (changed("cluster_2", macro=3), "bad_labels"),
        (changed("cluster_2", macro="a\x00"), "bad_labels"),
    ],
)
def test_a_naming_reply_that_is_not_exactly_right_is_a_fault(reply, reason):
    found = read_naming(reply if isinstance(reply, str) else json.dumps(reply), clusters=3)
    assert isinstance(found, Fault) and found.reason == reason and found.detail


_TEXT = st.text(max_size=70)
_ENTRY = st.fixed_dictionaries({"name": _TEXT, "meaning": _TEXT, "macro": _TEXT | st.none() | st.floats()})


@settings(max_examples=300, deadline=None)
@given(
    reply=st.fixed_dictionaries({f"cluster_{n}": _ENTRY for n in (1, 2)}),
    cut=st.integers(0, 400),
    wrap=st.sampled_from(["{}", "```json\n{}\n```", "Names: {}."]),
)
def test_no_naming_reply_raises_and_what_is_read_is_a_taxonomy_file(reply, cut, wrap, tmp_path_factory):
    text = wrap.replace("{}", json.dumps(reply))
    assert isinstance(read_naming(text[:cut], clusters=2), Fault | tuple)
    found = read_naming(text, clusters=2)
    if isinstance(found, Fault):
        assert found.detail
        return
    taxonomy = assemble(found, instances=[1, 2])
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(naming.to_yaml(taxonomy), encoding="utf-8")
    assert load_taxonomy(str(path)) == taxonomy


def test_the_taxonomy_has_the_largest_group_first_and_is_read_back(tmp_path):
    words = ("null", "yes", "on", "a: b", "# x", "'", '"', "- a", "1e3", "{}", "é")
    strategies = [*STRATEGIES, *(Strategy(name=f"s_{n}", meaning=word, macro=word) for n, word in enumerate(words))]
    taxonomy = assemble(strategies, instances=[5, 30, 28, *[1] * len(words)])
    assert taxonomy.labels[:3] == ("infer", "recall_facts", "double_check")  # 33 instances in Knowledge, 30 in Control
    path = tmp_path / "taxonomy.yaml"
    path.write_text(naming.to_yaml(taxonomy), encoding="utf-8")
    again = load_taxonomy(str(path))
    assert again == taxonomy and again.macro["s_0"] == "null" and again.meaning["infer"] == "draws a conclusion"


def test_clusters_are_named_after_one_repair_and_not_after_two():
    once = FakeChat(lambda request: json.dumps(GOOD) if len(request.messages) == 4 else '{"cluster_1": 1}')
    typical, frequency = [["a"], ["b"], ["c"]], dict.fromkeys("abc", 5)
    assert asyncio.run(name_clusters(typical, frequency=frequency, chat=once)) == STRATEGIES
    never = FakeChat(lambda request: "I would rather not.")
    with pytest.raises(ValueError, match=r"3 clusters could not be named \(not_json\).*'I would rather not.'"):
        asyncio.run(name_clusters(typical, frequency=frequency, chat=never))
    assert list(never.asked.values()) == [1, 1]


def test_a_repair_quotes_the_reply_and_its_fault_and_a_failure_is_a_reject():
    seen = []

    def answer(request):
        seen.append(request)
        return "first\ud800" if len(seen) == 1 else Failure("timeout", "late")

    request = ChatRequest("row", (Message("system", "s"), Message("user", "u")), {"type": "object"})
    read = lambda text: Fault("bad_labels", "too plain")  # noqa: E731
    tally = Counter()
    found = asyncio.run(ask(FakeChat(answer), request, read=read, tally=tally))
    assert found == Reject("row", "timeout", "repair of bad_labels: late", "first\ud800")
    assert seen[1].messages[:2] == request.messages and seen[1].schema == request.schema
    assert seen[1].messages[2] == Message("assistant", "first?") and "too plain" in seen[1].messages[3].content
    assert (tally["requests"], tally["repaired"], tally["prompt_tokens"]) == (1, 1, 10)


def candidate(number):
    text = "One. Two."
    row = {"row_id": f"q/{number}/on/0", "dataset": "q", "polarity": 1, "question": f"Question {number}?"}
    row |= {"answers": [], "text": text}
    return row | {"segment_start": [0, 5], "segment_end": [4, 9]}


def open_reply(request):
    labels = [{"label": "say", "confidence": 5}]
    return json.dumps({"steps": [{"segments": [0, 1], "labels": labels}]})


def test_each_candidate_is_labelled_rejected_or_left_where_nothing_may_be_asked_any_more():
    def reply(request):
        if "/3/" in request.key_id:
            raise Stopped("the budget is spent")
        return {"q/1/on/0": "no", "q/2/on/0": Failure("timeout", "late")}.get(request.key_id, open_reply(request))

    actor = OpenLabelling(start_chat=lambda: FakeChat(reply), show_answers=True)
    answers = asyncio.run(actor.answer([candidate(number) for number in range(5)]))
    steps = [{"first_segment": 0, "last_segment": 1, "labels": ("say",), "confidences": (5,)}]
    for number in (0, 4):
        assert answers[number].rows == [{"row_id": f"q/{number}/on/0", "steps": steps}]
        assert answers[number].took["requests"] == 1
    assert [(r.row_id, r.reason, r.raw) for r in answers[1].rejects] == [("q/1/on/0", "not_json", "no")]
    assert [(r.role, r.dataset, r.polarity) for r in answers[1].rejects] == [("labeller", "q", 1)]
    assert (answers[1].took["requests"], answers[1].took["repaired"]) == (2, 1)
    assert [(r.reason, r.detail) for r in answers[2].rejects] == [("timeout", "late")]
    assert answers[3].stopped == "the budget is spent"


def test_the_sample_is_counted_part_by_part_and_a_larger_one_holds_it(tmp_path):
    source = StageDir(str(tmp_path), stage="candidates", fingerprint="c")
    names = [part_name("0"), part_name("1")]
    for number, name in enumerate(names):
        rows = [{"row_id": f"{number}-{n}"} for n in range(10)]
        source.commit(name, pa.Table.from_pylist(rows, schema=CANDIDATES), schema=CANDIDATES)
    few, more, every = (sample(source, size=size, seed=1) for size in (5, 9, 99))
    assert [sum(map(len, sampled.values())) for sampled in (few, more, every)] == [5, 9, 20]
    assert all(set(few[name]) <= set(more[name]) <= set(every[name]) for name in names)
    assert every == {name: [f"{number}-{n}" for n in range(10)] for number, name in enumerate(names)}
    empty = StageDir(str(tmp_path / "none"), stage="candidates", fingerprint="c")
    with pytest.raises(ValueError, match="no candidate is left to label"):
        sample(empty, size=5, seed=1)


def test_principal_components_are_those_of_the_covariance():
    dice = np.random.default_rng(1)
    points = dice.normal(size=(300, 5)) * [9, 4, 1, 0.5, 0.1] @ np.linalg.qr(dice.normal(size=(5, 5)))[0]
    position, share = cluster_map.principal(points)
    spread = np.linalg.eigvalsh(np.cov(points.T))[::-1]
    np.testing.assert_allclose(position.var(axis=0, ddof=1), spread[:2], rtol=1e-9)
    assert share == pytest.approx(spread[:2].sum() / spread.sum())
    np.testing.assert_allclose(cluster_map.principal(points[:, ::-1])[0] ** 2, position**2, atol=1e-9)


def test_the_picture_has_a_mark_a_name_a_colour_a_cluster_and_escapes_every_text():
    frequency, embedding, _ = blobs(clusters=5, names=150, noise=30)
    frequency = {f"<{name}>": count for name, count in frequency.items()}
    found = cluster(frequency, embedding_ND=embedding, settings=SETTINGS)
    labels = [f"a&b_{n}" for n in range(found.count)]
    drawn = cluster_map.draw(found, embedding_ND=embedding, labels=labels)
    root = ET.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    tips = [c.find(f"{space}title").text for c in root.iter(f"{space}circle") if len(c)]
    assert sorted(tip.split(": ")[0] for tip in tips) == sorted(f"{name} ({n})" for name, n in frequency.items())
    by_label = Counter(tip.split(": ")[1] for tip in tips)
    assert by_label == {labels[c]: len(found.members(c)) for c in range(found.count)} | {
        "noise": len(found.members(NOISE))
    }
    inside = [float(c.get(a)) for c in root.iter(f"{space}circle") for a in ("cx", "cy")]
    assert min(inside) > 0 and max(inside) < float(root.get("width"))
    assert len({cluster_map.colour(c) for c in range(64)}) == 64
    assert drawn == cluster_map.draw(found, embedding_ND=embedding, labels=labels)


def test_one_cluster_has_no_silhouette_and_still_a_picture_and_a_record():
    dice = random.Random(0)
    embedding = np.array([[1 + dice.random() / 50, dice.random() / 50] for _ in range(12)])
    found = Clusters(tuple("abcdefghijkl"), dict.fromkeys("abcdefghijkl", 5), np.zeros(12, dtype=int), None)
    assert "silhouette none, one cluster" in discovery.describe(found)
    ET.fromstring(cluster_map.draw(found, embedding_ND=embedding, labels=["all"]))
    record = discovery.record(found, labels=["all"], counts={"a": 60})
    assert json.loads(json.dumps(record))["clusters"] == [{"label": "all", "names": dict.fromkeys("abcdefghijkl", 5)}]
