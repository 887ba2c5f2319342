"""What training leaves: a PEFT adapter becomes a merged model directory that any engine can serve.

A base model and an adapter directory enter; a directory with merged safetensors and the base's tokenizer leaves.
"""

from __future__ import annotations

from pathlib import Path

from mralign.store import Directory
from mralign.training.reference import load_model


def merge(base: str, *, adapter: Path, target: Path, dtype: str, trust_remote_code: bool = False) -> None:
    """Write base + adapter to `target` in `dtype`, with tokenizer and chat template."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    model = PeftModel.from_pretrained(load_model(base, dtype=dtype, trust_remote_code=trust_remote_code), str(adapter))
    model.merge_and_unload().save_pretrained(target, safe_serialization=True)
    AutoTokenizer.from_pretrained(base, trust_remote_code=trust_remote_code).save_pretrained(target)


def upload(source: Path, *, out: Directory, name: str) -> None:
    """Copy the files below the local directory `source` to `name` in `out`."""
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        out.write_bytes(f"{name}/{path.relative_to(source).as_posix()}", path.read_bytes())
