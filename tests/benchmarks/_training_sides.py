"""The two sides of training.py, each run in a process of its own: TRL's KTOTrainer and ours, on the same files.

A directory with model, tokenizer, committed examples and the same as text enters (`training.prepare`); seconds, memory
and losses leave.
"""

import json
import os
import resource
import tempfile
import time

RATE, BETA, LAMBDAS = 1e-4, 0.1, (1.0, 1.5)
ON_GPU = {"gpu": True, "dtype": "bfloat16", "attention": "varlen", "kernels": "liger", "micro_batch_tokens": 12_288}

TRL = {
    "trl": {},
    "trl_precomputed": {"precompute_ref_log_probs": True},
    "trl_unchecked": {"gradient_checkpointing": False},
    "trl_unchecked_precomputed": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
    "trl_liger_precomputed": {"use_liger_kernel": True, "precompute_ref_log_probs": True},  # on a GPU
}
OURS = {
    "ours": {"pairs": "trl"},
    "ours_kl_every_4": {"pairs": "trl", "kl_every": 4},
    "ours_new_pairs": {"pairs": "batch"},
}
OURS_ON_GPU = {"ours_in_26_gib": {"pairs": "batch", "memory": "26GiB", "micro_batch_tokens": None}}
WITHOUT = {  # one cause taken away from `ours`, or given to it
    "without_sorting": {"pairs": "trl", "micro_batch_tokens": 10**9},
    "without_stored_slope": {"pairs": "trl"},
    "without_completion_only": {"pairs": "trl"},
    "without_causal_fast_path": {"pairs": "trl"},
    "without_fused_lora": {"pairs": "trl"},
    "with_checkpointing": {"pairs": "trl", "gradient_checkpointing": True},
    "with_varlen": {"pairs": "trl", "attention": "varlen"},
}
WITHOUT_ON_GPU = {
    "without_liger": {"pairs": "trl", "kernels": "torch"},
    "without_varlen": {"pairs": "trl", "attention": "sdpa"},
    "without_fused_lora": {"pairs": "trl"},
    "without_head_kernel": {"pairs": "trl"},
    "with_checkpointing": {"pairs": "trl", "gradient_checkpointing": True},
}


def side(name, home, *, epochs, batch, gpu):
    """What one side tells of its training."""
    if name in TRL:
        return run_trl(home, epochs=epochs, batch=batch, gpu=gpu, options=TRL[name])
    return run_ours(home, name=name, settings=settings_of(name, epochs=epochs, batch=batch, gpu=gpu))


def settings_of(name, *, epochs, batch, gpu):
    """The settings of one of our sides."""
    options = {**OURS, **OURS_ON_GPU, **(WITHOUT_ON_GPU if gpu else WITHOUT)}[name]
    return our_settings({"epochs": epochs, "batch_size": batch, **(ON_GPU if gpu else {}), **options})


def peak(*, gpu):
    """The most memory so far, MiB: allocated on the GPU, or the largest resident set."""
    if gpu:
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reserved(*, gpu):
    """The most memory that torch's allocator has taken of the GPU so far, MiB; nothing on a CPU."""
    if not gpu:
        return {}
    import torch

    return {"reserved_mib": torch.cuda.max_memory_reserved() / 2**20}


def run_trl(home, *, epochs, batch, gpu, options):
    import logging

    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import KTOConfig, KTOTrainer
    from trl.trainer import kto_trainer

    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    torch.set_num_threads(2)
    samples = json.loads((home / "samples.json").read_text())
    text = [{side: " ".join(f"t{i}" for i in row[name]) for side, name in SIDES.items()} for row in samples]
    for row, sample in zip(text, samples, strict=True):
        row["completion"] = f" {row['completion'].removesuffix(' t0')}"  # TRL joins the two, and puts the end behind
        row["label"] = sample["polarity"] > 0
    model = AutoModelForCausalLM.from_pretrained(home / "model", dtype=torch.bfloat16 if gpu else torch.float32)
    model = model.cuda() if gpu else model
    tokenizer = AutoTokenizer.from_pretrained(home / "model")
    arguments = KTOConfig(
        output_dir=str(home / "trl"),
        per_device_train_batch_size=batch,
        num_train_epochs=epochs,
        learning_rate=RATE,
        beta=BETA,
        desirable_weight=LAMBDAS[0],
        undesirable_weight=LAMBDAS[1],
        bf16=gpu,
        use_cpu=not gpu,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=0,
        **options,
    )
    lora = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
    if gpu:  # it reads 16 GB of weights for the name of a cache, a minute that the size of the data does not change
        kto_trainer.hash_module = lambda model: "random"
    loaded, began = peak(gpu=gpu), time.perf_counter()
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
    memory = {"loaded_mib": loaded, "peak_mib": peak(gpu=gpu), **reserved(gpu=gpu)}
    return {"seconds": seconds, "losses": losses, **memory}


SIDES = {"prompt": "prompt_token_ids", "completion": "token_ids"}


def our_settings(options):
    """The same training as TRL's, in our words."""
    from mralign.config import Lora, Training

    return Training(
        **{
            "method": "kto",
            "learning_rate": RATE,
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


def run_ours(home, *, name, settings):
    from mralign.training.checkpoint import State
    from mralign.training.engine import World, start_engine
    from mralign.training.loop import step_flops, train
    from mralign.training.memory_choice import settle_memory

    sources, policy = loaded_model(home, settings, name=name)
    loaded, began = peak(gpu=settings.gpu), time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        task, kinds = referenced(sources, policy, work=work)
        engine = start_engine(policy, settings, rate=task.rate, world=World())
        task, choice = settle_memory(engine, task, world=World())
        state = train(engine, task, world=World(), state=State(), save=lambda state: None)
    seconds = time.perf_counter() - began
    found = {"seconds": seconds, "loaded_mib": loaded, "peak_mib": peak(gpu=settings.gpu), "reference_s": kinds}
    found["flops"] = sum(step_flops(engine.module, task, step) for step in range(len(task.plan)))
    found |= {"memory": choice.figures() if choice else {}, **reserved(gpu=settings.gpu)}
    found["losses"] = [row["loss"] for row in state.history]
    found["mfu"] = [row["mfu"] for row in state.history if "mfu" in row]
    return found


def loaded_model(home, settings, *, name="ours"):
    """Where the examples lie, and a fresh policy; this process is made ready for a training alone."""
    from mralign.config import Model
    from mralign.run.store import StageDir
    from mralign.training.engine import prepare_process
    from mralign.training.policy import build_policy
    from mralign.training.task_files import Sources

    prepare_process(settings)
    import deepspeed  # noqa: F401  as TRL's imports, before the clock starts

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    take_away(name)
    model = Model(path=str(home / "model"), dtype=settings.dtype)
    policy = build_policy(model, settings, seed=0)
    if settings.gpu:
        policy.to("cuda")
    return Sources(settings, model, 0, StageDir(str(home / "examples"), stage="examples")), policy


def referenced(sources, policy, *, work):
    """The task with its reference, scored below `work`, and the seconds that it took by kind of block."""
    from dataclasses import asdict, replace

    import pyarrow as pa

    from mralign.rows.schema import MATCHED_LOGPS, PAIR_SUMS, REFERENCE
    from mralign.run.part_names import part_name
    from mralign.run.store import StageDir
    from mralign.training.logprobs import TokenLogProbs
    from mralign.training.reference import blocks, model_mark, score_block

    task, settings = sources.load(), sources.settings
    shelf, reference = StageDir(f"{work}/shelf"), StageDir(f"{work}/reference")
    wanted = list(blocks(task.reader, task.plan, mark=model_mark(sources.model, settings)))
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
    return replace(sources, reference=reference, shelf=shelf).load(), kinds


def take_away(name):
    """Replace one of the causes of the gain by what it stands for."""
    import torch

    from mralign.training import batches, head, logprobs, policy

    if name == "without_sorting":  # the whole batch is one tensor, in the order of the plan
        batches._cut = lambda places, lengths, *, budget, packing: [torch.tensor(sorted(places)).numpy()]
    elif name == "without_stored_slope":  # the head is computed again in the backward pass
        frozen = head.head_logps

        def recomputing(hidden_ND, layer, target_N, *, chunk=None):
            rows = chunk or head._chunk_rows(hidden_ND, vocabulary=layer.weight.shape[0])
            pieces = zip(hidden_ND.split(rows), target_N.split(rows), strict=True)
            recompute = torch.utils.checkpoint.checkpoint
            if not torch.is_grad_enabled():
                return frozen(hidden_ND, layer, target_N, chunk=chunk)
            return torch.cat([recompute(head._recomputed, h, layer, t, use_reentrant=False) for h, t in pieces])

        logprobs.head_logps = recomputing
    elif name == "without_head_kernel":
        head._fused = lambda hidden_ND: None
    elif name == "without_fused_lora":
        policy.fuse_lora = lambda model: 0
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
