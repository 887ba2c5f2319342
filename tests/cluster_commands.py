"""The commands of cluster/README.md are taken to what would read them: Ray's command line, the files that are named,
and for tools that are not at hand the words that they know."""

import re

import yaml
from dockerfile import stages_of
from kustomized import assembled

KNOWN = {
    "kubectl": {"get", "logs", "port-forward", "delete", "create", "apply", "describe"},
    "docker": {"build", "push", "compose", "buildx", "run"},
    "compose": {"up", "exec", "logs", "down"},
}


def read_docker(words, *, root):
    assert words[0] in KNOWN["docker"], f"docker {words[0]}"
    if words[0] == "build":
        file, target = words[words.index("-f") + 1], words[words.index("--target") + 1]
        assert target in stages_of(root / file), f"{file} has no stage {target}"
    elif words[0] == "compose":
        assert words[1] == "-f"
        services = yaml.safe_load((root / words[2]).read_text())["services"]
        assert words[3] in KNOWN["compose"], f"docker compose {words[3]}"
        if words[3] in ("exec", "logs"):
            assert words[4] in services, f"{words[2]} has no service {words[4]}"


def read_kubectl(words, *, root):
    """Files and directories exist and make objects; a job or cluster that is named is one of them."""
    assert words[0] in KNOWN["kubectl"], f"kubectl {words[0]}"
    objects = []
    if words[-1] == "-k":  # a sentence speaks of the option
        return
    if words[0] in ("apply", "delete") and "-k" in words:
        assert assembled(root / words[words.index("-k") + 1])
    elif words[0] == "apply":
        assert yaml.safe_load((root / words[words.index("-f") + 1]).read_text())["kind"]
    for name in ("overlays/gpu", "standing", "namespace"):
        objects += assembled(root / "cluster" / "kuberay" / name)
    kinds = {one["kind"].lower() for one in objects}
    if words[0] in ("get", "delete", "describe") and "-k" not in words and words[1] not in ("secret", "pods"):
        assert words[1].partition("/")[0] in kinds, f"no manifest makes a {words[1]}"


def read_ray(words, *, root):
    """Ray's own command line; the cluster file of `ray up` and the like is one made of ours."""
    from ray.scripts.scripts import cli

    with cli.make_context("ray", [words[0], "--help"], resilient_parsing=True) as context:
        command = cli.get_command(context, words[0])
        assert command is not None, f"there is no ray {words[0]}"
        if len(words) == 1:  # the name of a command in a sentence
            return {}
        given = command.make_context(words[0], list(words[1:]), parent=context).params
    assert given.get("cluster_config_file", "mine.yaml") == "mine.yaml"
    return given


def read_sed(words, *, root):
    """`sed -e s,FROM,TO, ... FILE > mine.yaml`: what is filled in stands in the file, and nothing else is left over."""
    *options, file, arrow, made = words
    assert (arrow, made) == (">", "mine.yaml")
    text = (root / file).read_text()
    for word in (word for word in options if word != "-e"):
        before = re.fullmatch(r"s,(\w+),.+,", word)
        assert before, f"sed {word}"
        assert before[1] in text, f"{file} does not hold {before[1]}"
        text = text.replace(before[1], "")
    assert not re.search(r"YOUR_\w+", text), f"{file} is not filled in: {re.findall('YOUR_[A-Z_]+', text)}"


def read_script(words, *, root):
    """`sbatch cluster/mralign.sbatch ARGUMENTS`."""
    assert words[0] == "cluster/mralign.sbatch"
    assert (root / words[0]).is_file()
    return words[1:]
