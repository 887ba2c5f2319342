"""The training core beside TRL 1.16's KTOTrainer: same model, data, batches and pairs, in one run.

    python tests/benchmarks/training.py [--quick | --causes | --full] [--vocabulary 32768] [--turns 1] [--samples 32]

A random Qwen3 in float32 (20 M parameters, vocabulary 32k), LoRA r = 32 on all linear layers, samples whose lengths are
those of real Qwen3-8B thoughts of 450 to 1000 tokens (deciles measured on 566 traces), scaled by .4; three epochs of 32
samples in batches of 8. Every side is a process of its own, the sides take turns, and a ratio is one of medians.
Seconds begin with the loaded model and hold everything after it, the reference pass too. Peak memory is that of the
process (its largest resident set), imports included; `own` is what came on top of the loaded model.

Sides: `trl` as it comes (gradient checkpointing is its default) and with precomputed reference. `ours` with TRL's own
estimate of z0 (its pairs, every step), then the cheaper one (every fourth step), and with pairs drawn anew in every
epoch, which is what a run does. --causes adds TRL without checkpointing, and `ours` with one cause of the gain taken
away at a time. --full takes SmolLM2-135M, 8 samples of full length (TRL needs minutes a step). --quick is too small for
the ratios to mean much.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

THOUGHT = [458, 494, 532, 564, 594, 622, 665, 703, 758, 862, 1011]  # deciles: tokens of thought and answer
PROMPT = [16, 22, 24, 26, 27, 29, 31, 33, 36, 43, 78]  # the same of the prompt
BATCH, RATE, BETA, LAMBDAS = 8, 1e-4, 0.1, (1.0, 1.5)

TRL = {
    "trl": {},
    "trl_precomputed": {"precompute_ref_log_probs": True},
    "trl_unchecked": {"gradient_checkpointing": False},
    "trl_unchecked_precomputed": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
}
OURS = {
    "ours": {"pairs": "trl"},
    "ours_kl_every_4": {"pairs": "trl", "kl_every": 4},
    "ours_new_pairs": {"pairs": "batch"},
}
WITHOUT = {  # one cause taken away from `ours`
    "without_sorting": {"pairs": "trl", "micro_batch_tokens": 10**9},
    "without_stored_slope": {"pairs": "trl"},
    "without_completion_only": {"pairs": "trl"},
    "without_causal_fast_path": {"pairs": "trl"},
    "with_checkpointing": {"pairs": "trl", "gradient_checkpointing": True},
}


# --- data that both sides share -----------------------------------------------------------------------------------


def prepare(home, *, samples, vocabulary, full):
    """Model, tokenizer, committed examples and the same as text in the order of the index: `home`/..."""
    import numpy as np
    import pyarrow as pa
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from mralign.schema import EXAMPLES
    from mralign.store import StageDir, part_name
    from mralign.training.examples import example_row
    from mralign.training.index import index_rows, read_index, write_index

    vocabulary, scale = (49_152, 1.0) if full else (vocabulary, 0.4)
    parameters = save_full(home / "model") if full else save_random(home / "model", vocabulary=vocabulary)
    words = {"<end>": 0, "<pad>": 1} | {f"t{n}": n for n in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>").save_pretrained(
        home / "model"
    )

    rng = np.random.default_rng(0)
    rows = []
    for number in range(samples):
        share = rng.random(2) * 100
        tokens, prompt = (
            max(2, round(scale * float(np.interp(s, np.arange(0, 101, 10), deciles))))
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


def save_random(directory, *, vocabulary):
    """A random Qwen3; returns its number of parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=768,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(directory)
    return model.num_parameters()


def save_full(directory):
    """SmolLM2-135M in float32; its tokenizer is replaced by the one of words, whose ids mean nothing to it."""
    import torch
    from smollm2 import save_smollm2
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_smollm2(directory), dtype=torch.float32)
    for file in directory.iterdir():
        file.unlink()
    model.save_pretrained(directory)
    return model.num_parameters()


# --- the two sides, each in a process of its own -------------------------------------------------------------------


def resident():
    """The largest resident set so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_trl(home, *, epochs, options):
    import logging

    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    samples = json.loads((home / "samples.json").read_text())
    text = [{side: " ".join(f"t{i}" for i in row[name]) for side, name in SIDES.items()} for row in samples]
    for row, sample in zip(text, samples, strict=True):
        row["completion"] = f" {row['completion'].removesuffix(' t0')}"  # TRL joins the two, and puts the end behind
        row["label"] = sample["polarity"] > 0
    model = AutoModelForCausalLM.from_pretrained(home / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    arguments = KTOConfig(
        output_dir=str(home / "trl"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=epochs,
        learning_rate=RATE,
        beta=BETA,
        desirable_weight=LAMBDAS[0],
        undesirable_weight=LAMBDAS[1],
        bf16=False,
        use_cpu=True,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
        **options,
    )
    lora = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
    loaded, began = resident(), time.perf_counter()
    trainer = KTOTrainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(text),
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.train()
    seconds = time.perf_counter() - began
    ids = [trainer.train_dataset[f"{side}_ids"] for side in SIDES]
    found = [list(row) for row in zip(*ids, strict=True)]
    assert found == [[row["prompt_token_ids"], row["token_ids"]] for row in samples]  # the very same tokens
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"seconds": seconds, "loaded_mib": loaded, "peak_mib": resident(), "losses": losses}


SIDES = {"prompt": "prompt_token_ids", "completion": "token_ids"}


def our_settings(epochs, options):
    """The same training as TRL's, in our words."""
    from mralign.config import Lora, Training

    return Training(
        **{
            "method": "kto",
            "learning_rate": RATE,
            "epochs": epochs,
            "batch_size": BATCH,
            "micro_batch_tokens": 1024,
            "warmup_ratio": 0.0,
            "beta": BETA,
            "lambda_chosen": LAMBDAS[0],
            "lambda_rejected": LAMBDAS[1],
            "lora": Lora(r=32, alpha=64),
            "dtype": "float32",
            "workers": 1,
            "threads_per_worker": 2,
            "checkpoint_every": 10**9,
            **options,
        }
    )


def run_ours(home, *, name, epochs, options):
    from dataclasses import asdict, replace

    import pyarrow as pa

    from mralign.config import Model
    from mralign.schema import MATCHED_LOGPS, PAIR_SUMS, REFERENCE
    from mralign.store import StageDir, part_name
    from mralign.training.checkpoint import State
    from mralign.training.engine import World, prepare_process, start_engine
    from mralign.training.logprobs import TokenLogProbs
    from mralign.training.loop import train
    from mralign.training.policy import build_policy
    from mralign.training.reference import blocks, model_mark, score_block
    from mralign.training.sources import Sources

    settings = our_settings(epochs, options)
    prepare_process(settings)
    import deepspeed  # noqa: F401  as TRL's imports, before the clock starts

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    take_away(name)
    model = Model(path=str(home / "model"), dtype="float32")
    sources = Sources(settings, model, 0, StageDir(str(home / "examples"), stage="examples"))
    task = sources.load()
    policy = build_policy(model, settings, seed=0)
    loaded, began = resident(), time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        shelf, reference = StageDir(f"{work}/shelf"), StageDir(f"{work}/reference")
        wanted = list(blocks(task.reader, task.plan, mark=model_mark(model, settings)))
        base = TokenLogProbs(policy.causal)  # a fresh adapter changes nothing: the reference needs no second model
        kinds = {"matched": 0.0, "pairs": 0.0}
        for block in wanted:
            if shelf.exists(block.address):  # as the stage does: with TRL's pairs every epoch wants the same ones
                continue
            start = time.perf_counter()
            with policy.model.disable_adapter():
                found = score_block(base, block, reader=task.reader, plan=task.plan, settings=settings)
            shelf.commit(block.address, found, schema=MATCHED_LOGPS if block.kind == "matched" else PAIR_SUMS)
            kinds[block.kind] += time.perf_counter() - start
        table = pa.Table.from_pylist([asdict(block) for block in wanted], schema=REFERENCE)
        reference.commit(part_name("all"), table, schema=REFERENCE)
        task = replace(sources, reference=reference, shelf=shelf).load()
        engine = start_engine(policy, settings, rate=task.rate, world=World())
        state = train(engine, task, world=World(), state=State(), save=lambda state: None)
    seconds = time.perf_counter() - began
    losses = [row["loss"] for row in state.history]
    return {"seconds": seconds, "loaded_mib": loaded, "peak_mib": resident(), "losses": losses, "reference_s": kinds}


def take_away(name):
    """Replace one of the causes of the gain by what it stands for."""
    import torch

    from mralign.training import batches, head, logprobs

    if name == "without_sorting":  # the whole batch is one tensor, in the order of the plan
        batches._cut = lambda places, lengths, *, budget, packing: [torch.tensor(sorted(places)).numpy()]
    elif name == "without_stored_slope":  # the head is computed again in the backward pass
        frozen = head.head_logps

        def recomputing(hidden_ND, layer, target_N, *, chunk=None):
            rows = chunk or head._rows(hidden_ND, vocabulary=layer.weight.shape[0])
            pieces = zip(hidden_ND.split(rows), target_N.split(rows), strict=True)
            recompute = torch.utils.checkpoint.checkpoint
            if not torch.is_grad_enabled():
                return frozen(hidden_ND, layer, target_N, chunk=chunk)
            return torch.cat([recompute(head._recomputed, h, layer, t, use_reentrant=False) for h, t in pieces])

        logprobs.head_logps = recomputing
    elif name == "without_completion_only":  # the head is applied to prompts and padding as well

        def everywhere(self, micro):
            hidden_BSD = self.causal.get_decoder()(input_ids=micro.ids_BS, use_cache=False).last_hidden_state
            target = micro.ids_BS.flatten().roll(-1)
            target[micro.where_N] = micro.target_N
            return head.head_logps(hidden_BSD.flatten(0, 1), self.causal.lm_head, target)[micro.where_N]

        logprobs.TokenLogProbs.forward = everywhere
    elif name == "without_causal_fast_path":  # a mask of the padding is given, as TRL gives it

        def masked(self, micro):
            mask_BS = torch.zeros_like(micro.ids_BS)
            mask_BS.view(-1)[micro.where_N + 1] = 1
            mask_BS = mask_BS.flip(1).cummax(1).values.flip(1)  # prompts too
            decoder = self.causal.get_decoder()
            hidden = decoder(input_ids=micro.ids_BS, attention_mask=mask_BS, use_cache=False).last_hidden_state
            return head.head_logps(hidden.flatten(0, 1)[micro.where_N], self.causal.lm_head, micro.target_N)

        logprobs.TokenLogProbs.forward = masked


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- both together -------------------------------------------------------------------------------------------------


def measure(home, names, *, epochs, turns):
    """What every side told, `turns` times, in turn."""
    found = {name: [] for name in names}
    for turn in range(turns):
        for name in names:
            command = [sys.executable, __file__, "--side", name, "--home", str(home), "--epochs", str(epochs)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"    turn {turn + 1}, {name}: {found[name][-1]['seconds']:.1f} s", file=sys.stderr)
    return found


def side(name, home, *, epochs):
    if name in TRL:
        return run_trl(home, epochs=epochs, options=TRL[name])
    return run_ours(home, name=name, epochs=epochs, options={**OURS, **WITHOUT}[name])


def report(found, *, samples, epochs, tokens):
    medians = {name: statistics.median(one["seconds"] for one in runs) for name, runs in found.items()}
    peaks = {name: statistics.median(one["peak_mib"] for one in runs) for name, runs in found.items()}
    own = {n: statistics.median(one["peak_mib"] - one["loaded_mib"] for one in runs) for n, runs in found.items()}
    columns = {"side": 26, "seconds": 8, "samples/s": 10, "tokens/s": 9, "peak MiB": 9, "own MiB": 8, "over ours": 10}
    print(" ".join(f"{name:>{width}}" for name, width in columns.items()))
    for name, seconds in medians.items():
        print(
            f"{name:>26} {seconds:>8.1f} {samples * epochs / seconds:>10.2f} {tokens * epochs / seconds:>9.0f} "
            f"{peaks[name]:>9.0f} {own[name]:>8.0f} {seconds / medians['ours']:>10.2f}"
        )
    ratios = {}
    for trl in (name for name in TRL if name in medians):
        for ours in (name for name in OURS if name in medians):
            ratios[f"{trl}_over_{ours}"] = medians[trl] / medians[ours]
        ratios[f"peak_ours_over_{trl}"] = peaks["ours"] / peaks[trl]
        ratios[f"own_ours_over_{trl}"] = own["ours"] / own[trl]
    for name in WITHOUT.keys() & medians.keys():
        ratios[f"{name}_over_ours"] = medians[name] / medians["ours"]
    if "trl" in found:
        both = list(zip(found["trl"][0]["losses"], found["ours"][0]["losses"], strict=True))[:4]
        print("first losses, trl and ours: " + ", ".join(f"{a:.4f} {b:.4f}" for a, b in both))
    shares = found["ours_new_pairs"][0]["reference_s"] if "ours_new_pairs" in found else {}
    if shares:
        whole = found["ours_new_pairs"][0]["seconds"]
        parts = ", ".join(f"{kind} {value / whole:.2f}" for kind, value in shares.items())
        print(f"reference of new pairs, share of the whole: {parts}")
    return ratios, {"seconds": medians, "peak_mib": peaks, "own_mib": own, "reference_s_new_pairs": shares}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--causes", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(side(args.side, args.home, epochs=args.epochs)))
        return
    samples, epochs = (16, 1) if args.quick else (8, 1) if args.full else (args.samples, args.epochs)
    names = [*TRL, *OURS, *WITHOUT] if args.causes else ["trl", "trl_precomputed", *OURS]
    names = [name for name in names if not args.only or name in args.only]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="mralign-bench-") as directory:
        home = Path(directory)
        tokens, parameters = prepare(home, samples=samples, vocabulary=args.vocabulary, full=args.full)
        print(f"{parameters / 1e6:.1f} M parameters, {samples} samples, {tokens} completion tokens, {epochs} epochs")
        found = measure(home, names, epochs=epochs, turns=args.turns)
    ratios, figures = report(found, samples=samples, epochs=epochs, tokens=tokens)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {load:.1f}, {os.getloadavg()[0]:.1f}"
    figures |= {"vocabulary": args.vocabulary, "parameters": parameters}
    print(json.dumps({"benchmark": "training", "ratios": ratios, "figures": figures, "machine": machine}))


if __name__ == "__main__":
    main()
