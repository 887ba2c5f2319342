"""A run directory as a dictionary of files, on disk or in the loopback S3, and what two of them must have in common.

`tables` gives of a stage everything that must be equal after a kill: the rows of every table as sorted texts, tensors,
and the JSON documents. What rightly differs is left out: times, and names of parts that say how batches were cut.
"""

import hashlib
import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
from loopback_s3 import BUCKET
from safetensors.numpy import load as load_tensors

DOCUMENTS = ("taxonomy.json", "agreement.json", "metrics.json", "positions.json", "strata.json", "signal.json")


class Disk:
    """Run directories below a local directory."""

    def __init__(self, directory):
        self.directory = Path(directory)

    def uri(self, name):
        return str(self.directory / name)

    def exists(self, name):
        return (self.directory / name).exists()

    def put(self, name, files):
        """Write a run directory."""
        for path, data in files.items():
            target = self.directory / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def get(self, name):
        """The files of a run directory by their path in it."""
        home = self.directory / name
        return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    def clear(self, name):
        """Delete a run directory."""
        shutil.rmtree(self.directory / name, ignore_errors=True)


class Bucket:
    """Run directories in the store of a loopback S3."""

    def __init__(self, store):
        self.store = store

    def uri(self, name):
        return f"s3://{BUCKET}/{name}"

    def put(self, name, files):
        """Write a run directory."""
        with self.store.lock:
            self.store.objects.update({f"{name}/{path}": data for path, data in files.items()})

    def get(self, name):
        """The files of a run directory by their path in it."""
        with self.store.lock:
            found = {key: data for key, data in self.store.objects.items() if key.startswith(f"{name}/")}
        return {key.removeprefix(f"{name}/"): data for key, data in found.items() if not key.endswith("/")}

    def clear(self, name):
        """Delete a run directory."""
        with self.store.lock:
            for key in [key for key in self.store.objects if key.startswith(f"{name}/")]:
                del self.store.objects[key]


def before(files, *, stage, road):
    """The files of a run that has finished the stages before `stage` of the road, and nothing else."""
    done = road[: road.index(stage)]
    kept = {path: data for path, data in files.items() if path.split("/")[0] in done and "/ray_train/" not in path}
    for name in done:
        kept.update({path: files[path] for path in _shelved(files, name)})
    return kept


def _shelved(files, stage):
    """Paths of what a finished stage keeps on shelves."""
    if stage == "counts":
        return [path for path in files if path.startswith("counts_by_content/")]
    if stage == "reference":
        return [path for path in files if path.startswith("reference_by_content/")]
    if not stage.startswith("responses"):
        return []
    shelves = [
        entry["shelf"]
        for path, data in files.items()
        if path.startswith(f"{stage}/") and path.endswith("/parts.json")
        for entry in json.loads(data)
    ]
    return [path for path in files if any(path.startswith(f"{shelf}/") for shelf in shelves)]


def tables(files, stage):
    """What of a finished stage must be equal, by the place in its directory."""
    own = {path: data for path, data in files.items() if path.startswith(f"{stage}/") and "/ray_train/" not in path}
    (manifest,) = (path for path in own if path.endswith("/manifest.json") and path.count("/") == 2)
    home = manifest.rpartition("/")[0]
    said = json.loads(own[manifest])
    found = {"manifest": {name: said[name] for name in ("fingerprint", "upstream", "rows_in", "rows_out", "rejects")}}
    for path, data in sorted(own.items()):
        place = path.removeprefix(f"{home}/")
        if place.endswith(".parquet"):
            rows = found.setdefault(f"rows of {place.rpartition('/')[0] or 'the stage'}", [])
            rows += [str(_row(row, files=files)) for row in _read(data)]
        elif place.endswith(".safetensors"):
            tensors = load_tensors(data)
            found[place] = {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in tensors.items()}
        elif place in DOCUMENTS:
            found[place] = json.loads(data)
        elif place == "metrics.jsonl":
            steps = map(json.loads, data.decode().splitlines())
            found[place] = [[step[name] for name in ("step", "loss", "z0")] for step in steps]
    return {name: sorted(value) if name.startswith("rows of") else value for name, value in found.items()}


def _read(data):
    return pq.read_table(io.BytesIO(data)).to_pylist()


def _row(row, *, files):
    """A row; one that points to another table (a response, a block of the reference), with what lies there."""
    if set(row) == {"row_id", "part"}:
        wanted = row["row_id"].removesuffix("/ret")
        (there,) = (other for other in _read(files[row["part"]]) if other["row_id"] == wanted)
        return {"row_id": row["row_id"], "response": there}
    if "address" in row:
        return {**row, "scores": _read(files[f"reference_by_content/{row['address']}"])}
    return row


def differences(found, wanted):
    """Names of what is not equal, with the number of rows that differ."""
    wrong = []
    for name in sorted({*found, *wanted}):
        mine, theirs = found.get(name), wanted.get(name)
        if mine != theirs and isinstance(mine, list) and isinstance(theirs, list):
            apart = set(map(str, mine)) ^ set(map(str, theirs))
            wrong.append(f"{name}: {len(mine)} for {len(theirs)}, {len(apart)} differ")
        elif mine != theirs:
            wrong.append(f"{name}: {str(mine)[:300]} for {str(theirs)[:300]}")
    return wrong
