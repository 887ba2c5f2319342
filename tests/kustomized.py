"""A kustomization assembled without kubectl: as much of kustomize as the files in cluster/kuberay use.

The directory of a kustomization.yaml enters, its objects leave. A field of a kustomization that is not known here is an
error, so that a file cannot come to rest on something that no test looks at.
"""

import copy
from pathlib import Path

import yaml

KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "components", "images", "patches"),
    *("configMapGenerator", "generatorOptions"),
}
CLUSTER_WIDE = {"Namespace"}


def assembled(directory):
    """The objects that a kustomization makes."""
    return _with(directory, objects=[])


def _with(directory, *, objects):
    """`objects` and those of a kustomization or component, changed as it says."""
    told = yaml.safe_load((directory / "kustomization.yaml").read_text())
    assert set(told) <= KNOWN, f"{directory}: {sorted(set(told) - KNOWN)} is not known here"
    objects = [*objects]
    for name in told.get("resources", ()):
        objects += _resource(directory / name)
    for given in told.get("configMapGenerator", ()):
        assert told["generatorOptions"] == {"disableNameSuffixHash": True}
        data = {name: (directory / name).read_text() for name in given["files"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": given["name"]}, "data": data})
    for name in told.get("components", ()):
        objects = _with(directory / name, objects=objects)
    for patch in told.get("patches", ()):
        (target,) = [one for one in objects if _is(one, patch["target"])]
        for operation in yaml.safe_load((directory / patch["path"]).read_text()):
            apply(operation, target)
    for image in told.get("images", ()):
        for one in objects:
            _rename(one, image)
    for one in objects:
        if "namespace" in told and one["kind"] not in CLUSTER_WIDE:
            one["metadata"]["namespace"] = told["namespace"]
    return objects


def _resource(path):
    if path.is_dir():
        return assembled(path.resolve())
    found = [one for one in yaml.safe_load_all(path.read_text()) if one]
    return copy.deepcopy(found) if len(found) > 1 else _without_aliases(found)


def _without_aliases(objects):
    """Each alias of YAML as a copy of its own: a patch at one place must not reach another."""
    if isinstance(objects, list):
        return [_without_aliases(one) for one in objects]
    if isinstance(objects, dict):
        return {name: _without_aliases(one) for name, one in objects.items()}
    return objects


def _is(one, target):
    group, _, _ = one["apiVersion"].rpartition("/")
    found = {"group": group, "kind": one["kind"], "name": one["metadata"]["name"]}
    return all(found[name] == value for name, value in target.items())


def apply(operation, document):
    """One operation of a JSON patch (RFC 6902): add or replace."""
    *above, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    place = document
    for step in above:
        place = place[int(step)] if isinstance(place, list) else place[step]
    value = copy.deepcopy(operation["value"])
    if isinstance(place, list) and operation["op"] == "add":
        place.insert(len(place) if last == "-" else int(last), value)
        return
    if operation["op"] == "replace":
        known = int(last) < len(place) if isinstance(place, list) else last in place
        assert known, f"nothing to replace at {operation['path']}"
    else:
        assert operation["op"] == "add", f"{operation['op']} is not known here"
    place[int(last) if isinstance(place, list) else last] = value


def _rename(node, image):
    """The image of every container in `node` under its new name and tag."""
    for one in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
        _rename(one, image)
    if isinstance(node, dict) and str(node.get("image", "")).partition(":")[0] == image["name"]:
        node["image"] = f"{image['newName']}:{image['newTag']}"


def kustomizations(root):
    """Every directory below `root` with a kustomization of its own; components change those of others."""
    found = sorted(Path(root).rglob("kustomization.yaml"))
    return [path.parent for path in found if yaml.safe_load(path.read_text())["kind"] == "Kustomization"]
