"""The smallest run that has every stage: 3 train sources, a plain and a judged test set, snippets, labels anew.

The embedded model samples by real vLLM engines at temperature 0. Annotators, the judge and the search are endpoints on
loopback that answer from the request alone and count what they accept.
"""

import hashlib
import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from loopback_server import LoopbackServer
from scripted_annotators import answer_to, request_of
from search_server import SearchServer, hits

DATA = "pkg://mralign.miniworld/data/questions"
CONCURRENCY = 4
JUDGED = ("what is the river of limisar ?", "what is the founder of zirakun ?")


@dataclass(frozen=True)
class Endpoints:
    """The servers that a run asks."""

    chats: LoopbackServer
    search: SearchServer


@contextmanager
def endpoints(ports):
    """Running servers on two ports: an address counts for the fingerprint of what was said there."""
    with ExitStack() as stack:
        chats = LoopbackServer(latency_s=0.02, prompt=request_of, answer=answer_of, port=ports[0])
        yield Endpoints(stack.enter_context(chats), stack.enter_context(SearchServer(_found, port=ports[1])))


def _found(query):
    return [hits(query)]


def answer_of(request):
    """What the model of that request says: labels, or a verdict."""
    model = json.loads(request)[0]
    if model != "truth":
        return answer_to(request)
    drawn = hashlib.sha256(request.encode()).digest()[0]
    return json.dumps({"truthful": drawn % 2 == 0, "informative": drawn % 3 == 0})


def accepted(servers):
    """How often each request was answered, of chats and of searches."""
    return dict(servers.chats.accepted) | {f"search {query}": n for query, n in servers.search.received.items()}


def settings(servers, *, directory):
    """The arguments of the command but run.dir; a table for the judged benchmark is written into `directory`."""
    table = directory / "truthful.csv"
    columns = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    table.write_text(columns + "".join(f"A,B,{question},metalon,metalon,kalarer,none\n" for question in JUDGED))
    train = [{"name": f"part{n}", "path": f"{DATA}/train.jsonl", "skip": 40 * n, "limit": 40} for n in range(3)]
    plain = [{"name": f"held{n}", "path": f"{DATA}/test.jsonl", "skip": 20 + 8 * n, "limit": 8} for n in range(2)]
    test = [*plain, {"name": "truthfulqa", "format": "truthfulqa", "path": str(table)}]
    annotators = [_chat(servers, name="Ann", model="a"), _chat(servers, name="Ben", model="c")]
    greedy = "{temperature: 0.0, top_p: 1.0, max_tokens: 200}"
    return [
        f"questions.train={json.dumps(train)}",
        "questions.dev=[]",
        f"questions.test={json.dumps(test)}",
        "engine.batch_size=32",
        "engine.min_replicas=1",
        "engine.max_replicas=1",
        "rollouts.n=1",
        f"rollouts.decoding={greedy}",
        f"annotation.annotators={json.dumps(annotators)}",
        f"annotation.adjudicator={json.dumps(_chat(servers, name='Jo', model='judge'))}",
        "training.epochs=1",
        "training.checkpoint_every=2",
        "evaluation.methods=[think_on, think_off_ret]",
        "evaluation.draws=1",
        "evaluation.reannotate=12",
        f"evaluation.decoding={greedy}",
        f"evaluation.judge={json.dumps(_chat(servers, name='truth', model='truth'))}",
        "evaluation.retrieval.engine=http",
        f"evaluation.retrieval.search.url={servers.search.url}",
        "evaluation.retrieval.top_k=1",
        "evaluation.retrieval.prompt='{question} {snippets}'",
        "run.reject_limit=1.0",
        "run.local_cpus=6",
    ]


def _chat(servers, *, name, model):
    http = {"base_url": servers.chats.base_url, "model": model, "concurrency": CONCURRENCY, "vllm_extras": False}
    return {"name": name, "engine": "http", "http": http}
