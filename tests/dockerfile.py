"""A Dockerfile as a list of instructions by stage, as much of its grammar as ours uses; and what `COPY` takes."""

import fnmatch
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """`RUN apt-get update ...`: its word and what follows, continued lines joined, comments gone."""

    word: str
    text: str


def stages_of(path):
    """The instructions of each stage, by its name, those of the stages that it stands on before its own."""
    stages, current = {"": []}, ""
    for one in instructions_of(path.read_text()):
        if one.word == "FROM":
            base, _, current = one.text.split()
            stages[current] = list(stages.get(base, stages[""]))
        else:
            stages[current].append(one)
    return stages


def instructions_of(text):
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found, whole = [], ""
    for line in lines:
        whole += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        word, _, rest = whole.partition(" ")
        found.append(Instruction(word, " ".join(rest.split())))
        whole = ""
    assert not whole, f"the last line is continued by nothing: {whole!r}"
    return found


def variables_of(text):
    """What ENV or ARG sets, with quotes taken off."""
    return {name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|\S*)', text)}


def command_of(instruction):
    """The words of HEALTHCHECK's or CMD's JSON form."""
    return json.loads(instruction.text[instruction.text.index("[") :])


def copy(instruction, *, context, to):
    """What COPY does: files and directories of the context, without what .dockerignore keeps out, into a directory."""
    *sources, target = instruction.text.split()
    place = to / target
    for source in sources:
        assert kept(source, context=context), f"COPY {source}: .dockerignore keeps it out"
        path = context / source
        if path.is_dir():
            shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"), dirs_exist_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def kept(name, *, context):
    """Whether .dockerignore lets a file at the top reach the builder: the last line that fits decides."""
    answer = True
    for line in (Path(context) / ".dockerignore").read_text().split():
        if fnmatch.fnmatch(name, line.removeprefix("!")):
            answer = line.startswith("!")
    return answer
