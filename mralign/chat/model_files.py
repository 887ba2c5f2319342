"""The files of a model beside its weights: one way to load a tokenizer, and what a merged model takes along.

A model directory, URI or hub name enters; its tokenizer leaves, the same one wherever the model is asked, trained or
served. A chat template that writes today's date is given the run's date instead (`model.template_date`): else the
prompts of tomorrow would not be those of today.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from mralign.config import Model, resolve_path
from mralign.run.disk import DiskFull
from mralign.run.shared_copies import shared_copy
from mralign.run.store import Directory

_DATE_CALL = "strftime_now"  # the one way by which a template of transformers learns what day it is
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz", ".tflite")
# What else may be taken along, by what it can do: data and text. Pickles and programs are neither.
_DATA = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".yaml", ".yml", ".md", ".vocab", ".bpe")
_LICENCES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
# They would make a merged model be read as something else: as an adapter, or in another format of weights.
_MISLEADING = ("adapter_config.json", "params.json")


@cache
def local_copy(path: str) -> str:
    """A model directory that lies on another file system, copied to this machine once for all its processes; others
    stay. A process looks for it once."""
    return shared_copy(path) if "://" in path else path


@cache
def local_copy_beside_weights(path: str) -> str:
    """As `local_copy`, without the weights: what a tokenizer, a template and a configuration need."""
    return shared_copy(path, wanted=lambda name: not name.endswith(_WEIGHTS)) if "://" in path else path


def load_tokenizer(path: str, *, model: Model, dated: bool = True) -> Any:
    """The tokenizer of the model directory or hub name `path`, in transformers' own form.

    `model` says whether its code is trusted and which date its template writes. `dated` False: the tokenizer renders
    nothing. Raises ValueError where there is none that transformers can load, or that has no ids for a text; and for a
    template that writes the date where none is given.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        place = local_copy_beside_weights(path)
        if _names_mistrals_own(place):  # transformers heeds that name before it heeds mistral_format
            tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(place)
        else:
            trusted = model.trust_remote_code
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trusted, mistral_format=False)
        tokenizer("a", add_special_tokens=False)["input_ids"]
        tokenizer.added_tokens_decoder  # noqa: B018
    except DiskFull:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
        raise ValueError(
            f"the tokenizer of {path} cannot be loaded: {_first_line(error)}; the directory needs tokenizer.json (or "
            f"the files of its tokenizer class) as transformers' save_pretrained writes them"
        ) from error
    return pin_date(tokenizer, model=model) if dated else tokenizer


def _names_mistrals_own(place: str) -> bool:
    """Whether the directory holds an ordinary tokenizer, but says that it is to be read as Mistral's own."""
    settings = Path(place) / "tokenizer_config.json"
    if not settings.is_file() or not (Path(place) / "tokenizer.json").is_file():
        return False
    values = json.loads(settings.read_text(encoding="utf-8"))
    return isinstance(values, dict) and str(values.get("tokenizer_class")).startswith("MistralCommon")


def check_configuration(path: str, *, trust_remote_code: bool) -> None:
    """Raise ValueError if the local directory holds no configuration of a causal LM that transformers knows."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ValueError(
            f"the configuration of the model {path} cannot be loaded: {_first_line(error)}; transformers must know its "
            f"type, or bring its code and give model.trust_remote_code=true"
        ) from error


_INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100 * 2**20  # bytes; the format's own limit


def weight_files(path: str) -> list[Path]:
    """The safetensors files that transformers loads from a local directory: those of its index, else
    model.safetensors, else all. Copies in another format beside them (consolidated.safetensors) are none of them."""
    place = Path(path)
    if (place / _INDEX).is_file():
        index = json.loads((place / _INDEX).read_text(encoding="utf-8"))
        return [place / name for name in sorted(set(index["weight_map"].values()))]
    whole = place / "model.safetensors"
    return [whole] if whole.is_file() else sorted(place.glob("*.safetensors"))


def weight_shapes(file: Path) -> dict[str, list[int]]:
    """The shapes of a safetensors file by name. Raises ValueError for one that is missing, cut short, or none (what Git
    LFS leaves in place of a file)."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: Any = json.loads(stream.read(length)) if length <= _LONGEST_HEADER else None
        header.pop("__metadata__", None)
        ends = [tensor["data_offsets"][1] for tensor in header.values()]
        shapes = {name: tensor["shape"] for name, tensor in header.items()}
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        raise ValueError(f"{file} is missing or no safetensors file; {_GET_IT_AGAIN}") from None
    there, wanted = file.stat().st_size, 8 + length + max(ends, default=0)
    if there < wanted:
        raise ValueError(f"{file} has {there:,} bytes of {wanted:,}; {_GET_IT_AGAIN}")
    return shapes


_GET_IT_AGAIN = "copy or download it again (from a Git repository with `git lfs pull`)"


def check_weights(path: str) -> None:
    """Raise ValueError unless the weights of a local directory are there and whole. Reads their headers alone."""
    try:
        files = weight_files(path)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}/{_INDEX} cannot be read ({_first_line(error)}); {_GET_IT_AGAIN}") from None
    for file in files:
        weight_shapes(file)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]:.300}"


def writes_date(template: str | None) -> bool:
    """Whether a chat template asks what day it is."""
    return template is not None and _DATE_CALL in template


def pin_date(tokenizer: Any, *, model: Model) -> Any:
    """The tokenizer, whose template writes `model.template_date` for today. ValueError where that is not given."""
    if not writes_date(_template_text(tokenizer.chat_template)):
        return tokenizer
    if model.template_date is None:
        raise ValueError(
            f"the chat template of {model.path} writes today's date, so its prompts differ from day to day; give "
            f"model.template_date=YYYY-MM-DD"
        )
    day = datetime.datetime.combine(model.template_date, datetime.time())
    tokenizer.apply_chat_template = partial(tokenizer.apply_chat_template, strftime_now=day.strftime)
    return tokenizer


def _template_text(template: Any) -> str | None:
    """Of several templates all of them, as one text."""
    return "\n".join(map(str, template.values())) if isinstance(template, dict) else template


def template_text(path: str) -> str | None:
    """The chat templates of a model directory or URI, or of a hub name whose files are at hand; None without one."""
    found = []
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        text = _text(path, name)
        if text is not None:
            found.append(text if name.endswith(".jinja") else json.dumps(json.loads(text).get("chat_template") or ""))
    return "\n".join(found) or None


def _text(path: str, name: str) -> str | None:
    if "://" in path or Path(path).is_dir():
        directory = Directory(path)
        return directory.read_text(name) if directory.exists(name) else None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(
            path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
        )
    except OSError:  # no such repository, or none of ours
        return None
    return None if found is None else Path(found).read_text(encoding="utf-8")


def copy_companions(base: str, *, target: Path, trust_remote_code: bool) -> list[str]:
    """Copy to `target` what lies beside the weights of the model `base` and is not there yet: tokenizer, templates,
    generation configuration, processors. Returns the names.

    Data and text only: no pickles, and programs only where the model's code is trusted. Indices of weights belong to
    the weights.
    """
    source = snapshot(base)
    copied = []
    for path in _files(source):
        name = path.relative_to(source)
        if (target / name).exists() or not _companion(path, trust_remote_code=trust_remote_code):
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
        copied.append(name.as_posix())
    return copied


def snapshot(base: str) -> Path:
    """The local directory of the model, of a hub name without its weights."""
    place = Path(local_copy(base))
    if place.is_dir():
        return place
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = [f"*{suffix}" for suffix in (*_DATA, ".py")] + [f"{name}*" for name in _LICENCES]
    try:
        return Path(snapshot_download(base, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ValueError(f"the files of {base} cannot be had: {_first_line(error)}; give a model directory") from None


def _files(directory: Path) -> Iterator[Path]:
    """Its files, those of hidden and of weights' directories (`original`, `onnx`) left out."""
    for path in sorted(directory.rglob("*")):
        inner = path.relative_to(directory).parts
        hidden = any(part.startswith(".") for part in inner)
        if path.is_file() and not hidden and not _beside_weights(path, directory):
            yield path


def _beside_weights(path: Path, directory: Path) -> bool:
    """Whether the file lies in a directory below the model's that holds weights of another format."""
    place = path.parent
    return place != directory and any(other.suffix in _WEIGHTS for other in place.iterdir())


def _companion(path: Path, *, trust_remote_code: bool) -> bool:
    if path.name in _MISLEADING or path.name.endswith(".index.json"):
        return False
    if path.suffix == ".py":
        return trust_remote_code
    return path.suffix in _DATA or path.name.startswith(_LICENCES)


def model_path(model: Model) -> str:
    """Where the files of the model lie on this machine, or its hub name."""
    return local_copy(resolve_path(model.path))


def tokenizer_path(model: Model) -> str:
    """Where the files of the model but for its weights lie on this machine, or its hub name."""
    return local_copy_beside_weights(resolve_path(model.path))


def adapter_paths(model: Model) -> list[str]:
    """Where the files of the model's own adapter lie on this machine; empty if it has none."""
    return [local_copy(resolve_path(model.adapter))] if model.adapter else []
