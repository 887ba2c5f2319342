"""The training core beside TRL 1.16's KTOTrainer: same model, data, batches and pairs, in one run.

    python tests/benchmarks/training.py [--quick | --full | --gpu] [--causes] [--vocabulary V] [--turns 1] [--samples S]
        [--only SIDE ...] [--kept DIR] [--dry]

A random Qwen3 in float32 (20 M parameters, vocabulary 32k), LoRA r = 32 on all linear layers, samples whose lengths are
those of real Qwen3-8B thoughts of 450 to 1000 tokens (deciles measured on 566 traces), scaled by .4; three epochs of 32
samples in batches of 8. Every side is a process of its own, the sides take turns, and a ratio is one of medians.
Seconds begin with the loaded model (ours: with its fresh adapter) and hold everything after it, the reference pass too.
Peak memory is that of the process (its largest resident set), imports included; `own` is what came on top of the loaded
model.

Sides: `trl` as it comes (gradient checkpointing is its default) and with precomputed reference. `ours` with TRL's own
estimate of z0 (its pairs, every step), then the cheaper one (every fourth step), and with pairs drawn anew in every
epoch, which is what a run does. --causes adds TRL without checkpointing (on a CPU), and `ours` with one cause of the
gain taken away at a time. --full takes SmolLM2-135M, 8 samples of full length in one batch (TRL needs minutes a
step). --quick is too small for the ratios to mean much.

--gpu takes the shape of Qwen3-8B with random weights in bfloat16, vocabulary 152k, full lengths, 32 samples in
batches of 16, three epochs; ours with varlen attention, Liger's kernels and micro-batches of 12,288 tokens (with
`--only ours_in_26_gib` what `training.memory` chooses for that); TRL as it comes, with precomputed reference, and with
Liger's kernels too. Peak memory is then what the GPU's allocator gave out, and `reserved` what it took. `mfu` is that
of the whole: the useful operations of training and of z0 (none twice, no padding, no reference) over all seconds and
the GPU's peak. Needs 20 GB for the model in the temporary directory (TMPDIR), and 70 GiB of the GPU (87 with --causes).

--kept names a directory for model and examples, which stay there for the next call and for micro_batches.py and
step_profile.py. --dry measures nothing: it says what would be trained.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from _training_sides import OURS, OURS_ON_GPU, TRL, WITHOUT, WITHOUT_ON_GPU, settings_of, side  # noqa: E402

THOUGHT = [458, 494, 532, 564, 594, 622, 665, 703, 758, 862, 1011]  # deciles: tokens of thought and answer
PROMPT = [16, 22, 24, 26, 27, 29, 31, 33, 36, 43, 78]  # the same of the prompt


@dataclass(frozen=True)
class Shape:
    """A model, and how much is trained on it. `scale`: of the real lengths."""

    save: Callable[..., int]
    vocabulary: int
    scale: float
    samples: int
    epochs: int
    batch: int
    gpu: bool = False

    @property
    def files(self):
        """What decides the files of model and examples."""
        return f"{self.vocabulary} words, lengths x {self.scale}, {self.samples} samples"


# --- data that both sides share -----------------------------------------------------------------------------------


def prepare(home, shape):
    """Model, tokenizer, committed examples and the same as text in the order of the index: `home`/..."""
    import numpy as np
    import pyarrow as pa
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from mralign.rows.schema import EXAMPLES
    from mralign.run.part_names import part_name
    from mralign.run.store import StageDir
    from mralign.training.examples import example_row
    from mralign.training.index import index_rows, read_index, write_index

    vocabulary = shape.vocabulary
    parameters = shape.save(home / "model", vocabulary=vocabulary)
    words = {"<end>": 0, "<pad>": 1} | {f"t{n}": n for n in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>").save_pretrained(
        home / "model"
    )

    rng = np.random.default_rng(0)
    rows = []
    for number in range(shape.samples):
        share = rng.random(2) * 100
        tokens, prompt = (
            max(2, round(shape.scale * float(np.interp(s, np.arange(0, 101, 10), deciles))))
            for s, deciles in zip(share, (THOUGHT, PROMPT), strict=True)
        )
        candidate = {
            "row_id": f"q{number}/on/0",
            "question_id": f"q{number}",
            "dataset": "bench",
            "polarity": 1 if rng.random() < 2 / 3 else -1,
            "prompt_token_ids": rng.integers(3, vocabulary, prompt).tolist(),
            "token_ids": [*rng.integers(3, vocabulary, tokens).tolist(), 0],
        }
        rows.append(example_row(candidate, token_step=[0] * tokens + [-1]))
    examples = StageDir(str(home / "examples"), stage="examples")
    examples.commit(part_name("0"), pa.Table.from_pylist(rows, schema=EXAMPLES), schema=EXAMPLES)
    write_index(examples, [index_rows(examples, [(0, part_name("0"))])])
    ordered = [rows[row] for row in read_index(examples).row_N]
    (home / "samples.json").write_text(json.dumps(ordered))
    return sum(row["completion_tokens"] for row in rows), parameters


@contextmanager
def prepared(shape, *, kept=None):
    """A directory that `prepare` has filled, and what it told: `kept`, where an earlier call may have done so, or one
    for the block alone."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="mralign-bench-") as directory:
            yield Path(directory), *prepare(Path(directory), shape)
        return
    mark = kept / "prepared.json"
    if not mark.exists():
        for name in ("model", "examples"):  # of a call that was ended
            shutil.rmtree(kept / name, ignore_errors=True)
        kept.mkdir(parents=True, exist_ok=True)
        mark.write_text(json.dumps({"of": shape.files, "told": prepare(kept, shape)}))
    found = json.loads(mark.read_text())
    if found["of"] != shape.files:
        sys.exit(f"{kept} holds {found['of']}, not {shape.files}; give another directory")
    yield kept, *found["told"]


def save_qwen3(directory, *, vocabulary, dtype="float32", device="cpu", **sizes):
    """A random Qwen3, made on `device`; returns its number of parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    given = {"tie_word_embeddings": False, "eos_token_id": 0, "pad_token_id": 1, "dtype": dtype, **sizes}
    config = Qwen3Config(vocab_size=vocabulary, **given)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory)
    parameters = model.num_parameters()
    del model
    torch.cuda.empty_cache()  # for the sides; nothing without a GPU
    return parameters


save_20m = partial(
    save_qwen3,
    hidden_size=256,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    intermediate_size=768,
    max_position_embeddings=2048,
)
save_8b = partial(
    save_qwen3,
    dtype="bfloat16",
    device="cuda",
    hidden_size=4096,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=12_288,
    max_position_embeddings=40_960,
)


def save_smollm(directory, *, vocabulary):
    """SmolLM2-135M in float32; its tokenizer is replaced by the one of words, whose ids mean nothing to it."""
    import torch
    from smollm2 import save_smollm2
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_smollm2(directory), dtype=torch.float32)
    for file in directory.iterdir():
        file.unlink()
    model.save_pretrained(directory)
    return model.num_parameters()


# --- both together -------------------------------------------------------------------------------------------------


SMALL = Shape(save_20m, vocabulary=32_768, scale=0.4, samples=32, epochs=3, batch=8)
QUICK = replace(SMALL, samples=8, epochs=1)
FULL = Shape(save_smollm, vocabulary=49_152, scale=1.0, samples=8, epochs=3, batch=8)
GPU = Shape(save_8b, vocabulary=151_936, scale=1.0, samples=32, epochs=3, batch=16, gpu=True)
SHAPES = {"quick": QUICK, "full": FULL, "gpu": GPU}


def measure(home, names, shape, *, turns):
    """What every side told, `turns` times, in turn."""
    found = {name: [] for name in names}
    given = json.dumps({"epochs": shape.epochs, "batch": shape.batch, "gpu": shape.gpu})
    for turn in range(turns):
        for name in names:
            command = [sys.executable, __file__, "--side", name, "--home", str(home), "--given", given]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode and "OutOfMemoryError" in done.stderr:
                print(f"    turn {turn + 1}, {name}: does not fit the GPU", file=sys.stderr)
                continue
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            told = {key: value for key, value in found[name][-1].items() if key != "losses"}
            print(f"    turn {turn + 1}, {name}: {json.dumps(told)}", file=sys.stderr, flush=True)
    if not found["ours"]:
        sys.exit("ours does not fit the GPU; there is nothing to compare with")
    return {name: runs for name, runs in found.items() if runs}


def mfu_of(found, seconds):
    """Model FLOPs utilisation of each side's training, where the GPU's peak is known. TRL does what `ours` does."""
    import torch

    from mralign.training.step_figures import mfu

    flops = {name: runs[0].get("flops", found["ours"][0]["flops"]) for name, runs in found.items()}
    device = torch.cuda.get_device_name()
    shares = {name: mfu(flops[name], seconds=s, workers=1, device=device) for name, s in seconds.items()}
    return {} if None in shares.values() else shares


def report(found, shape, *, tokens):
    samples, epochs = shape.samples, shape.epochs
    medians = {name: statistics.median(one["seconds"] for one in runs) for name, runs in found.items()}
    peaks = {name: statistics.median(one["peak_mib"] for one in runs) for name, runs in found.items()}
    own = {n: statistics.median(one["peak_mib"] - one["loaded_mib"] for one in runs) for n, runs in found.items()}
    reserved = {n: max(one["reserved_mib"] for one in runs) for n, runs in found.items()} if shape.gpu else {}
    columns = {"side": 26, "seconds": 8, "samples/s": 10, "tokens/s": 9, "peak MiB": 9, "own MiB": 8, "over ours": 10}
    shares = mfu_of(found, medians) if shape.gpu else {}
    columns |= {"reserved": 9} if reserved else {}
    columns |= {"mfu": 6} if shares else {}
    print(" ".join(f"{name:>{width}}" for name, width in columns.items()))
    for name, seconds in medians.items():
        print(
            f"{name:>26} {seconds:>8.1f} {samples * epochs / seconds:>10.2f} {tokens * epochs / seconds:>9.0f} "
            f"{peaks[name]:>9.0f} {own[name]:>8.0f} {seconds / medians['ours']:>10.2f}"
            + (f" {reserved[name]:>9.0f}" if reserved else "")
            + (f" {shares[name]:>6.3f}" if shares else "")
        )
    for name, runs in found.items():
        if runs[0].get("mfu"):
            print(f"MFU of {name}'s optimizer steps after the first: {statistics.median(runs[0]['mfu'][1:]):.3f}")
    ratios = {}
    for trl in (name for name in TRL if name in medians):
        for ours in (name for name in OURS | OURS_ON_GPU if name in medians):
            ratios[f"{trl}_over_{ours}"] = medians[trl] / medians[ours]
        ratios[f"peak_ours_over_{trl}"] = peaks["ours"] / peaks[trl]
        ratios[f"own_ours_over_{trl}"] = own["ours"] / own[trl]
    for name in (WITHOUT | WITHOUT_ON_GPU).keys() & medians.keys():
        ratios[f"{name}_over_ours"] = medians[name] / medians["ours"]
    first_losses = {name: runs[0]["losses"][:4] for name, runs in found.items()}
    if "trl" in found:
        both = list(zip(first_losses["trl"], first_losses["ours"], strict=True))
        print("first losses, trl and ours: " + ", ".join(f"{a:.4f} {b:.4f}" for a, b in both))
    reference = found["ours_new_pairs"][0]["reference_s"] if "ours_new_pairs" in found else {}
    if reference:
        whole = found["ours_new_pairs"][0]["seconds"]
        parts = ", ".join(f"{kind} {value / whole:.2f}" for kind, value in reference.items())
        print(f"reference of new pairs, share of the whole: {parts}")
    return ratios, {
        "seconds": medians,
        "peak_mib": peaks,
        "own_mib": own,
        "reserved_mib": reserved,
        "memory": {name: runs[0]["memory"] for name, runs in found.items() if runs[0].get("memory")},
        "first_losses": first_losses,
        "mfu_of_steps": {n: statistics.median(runs[0]["mfu"][1:]) for n, runs in found.items() if runs[0].get("mfu")},
        "reference_s_new_pairs": reference,
        "mfu": shares,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    for name, shape in SHAPES.items():
        size.add_argument(f"--{name}", action="store_const", const=shape, dest="shape", help=f"{shape.samples} samples")
    parser.set_defaults(shape=SMALL)
    parser.add_argument("--causes", action="store_true", help="one cause of the gain taken away at a time")
    parser.add_argument("--samples", type=int, help="a multiple of the batch")
    parser.add_argument("--vocabulary", type=int, help="words; not with --full")
    parser.add_argument("--turns", type=int, default=1, help="how often each side trains")
    parser.add_argument("--only", nargs="*", help="these sides; `ours` is among them in any case")
    parser.add_argument("--kept", type=Path, help="a directory for model and examples")
    parser.add_argument("--dry", action="store_true", help="measure nothing")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--given", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(side(args.side, args.home, **args.given)))
        return
    shape = args.shape
    changes = {"samples": args.samples, "vocabulary": args.vocabulary}
    shape = replace(shape, **{name: value for name, value in changes.items() if value})
    if shape.samples % shape.batch:
        parser.error(f"--samples must be a multiple of {shape.batch}: TRL and we differ in what is left over")
    best = ["trl_liger_precomputed"] if shape.gpu else []
    causes = WITHOUT_ON_GPU if shape.gpu else {**dict.fromkeys(n for n in TRL if "liger" not in n), **WITHOUT}
    names = ["trl", "trl_precomputed", *best, *OURS, *(causes if args.causes else [])]
    names = list(dict.fromkeys([*args.only, "ours"] if args.only else names))
    if args.dry:
        given = {"epochs": shape.epochs, "batch": shape.batch, "gpu": shape.gpu}
        print(json.dumps({name: name in TRL or settings_of(name, **given).model_dump(mode="json") for name in names}))
        return
    load = os.getloadavg()[0]
    with prepared(shape, kept=args.kept) as (home, tokens, parameters):
        amount = f"{shape.samples} samples, {tokens} completion tokens, {shape.epochs} epochs"
        print(f"{parameters / 1e6:.1f} M parameters, vocabulary {shape.vocabulary}, {amount}")
        found = measure(home, names, shape, turns=args.turns)
    ratios, figures = report(found, shape, tokens=tokens)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {load:.1f}, {os.getloadavg()[0]:.1f}"
    figures |= {"vocabulary": shape.vocabulary, "parameters": parameters}
    print(json.dumps({"benchmark": "training", "ratios": ratios, "figures": figures, "machine": machine}))


if __name__ == "__main__":
    main()
