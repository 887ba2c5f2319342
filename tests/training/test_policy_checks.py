"""Log-probabilities against the model's own logits: real models of many families, tiny and random."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_families import DYNAMIC, MORE, PLAIN, family, longrope
from tiny_policy import make_sources, make_task, settings, token_pairs

from mralign.config import Model
from mralign.run.store import StageDir
from mralign.training.batches import packed, padded
from mralign.training.logprobs import TokenLogProbs
from mralign.training.policy import base_policy
from mralign.training.policy_checks import check_own, check_policy, longest_bound, longest_planned
from mralign.training.stage import _score


def by_full_logits(model, pair):
    """log-probabilities of the completion by the model's own forward pass, in float64 after it."""
    prompt, completion = pair
    ids = torch.from_numpy(np.concatenate(pair)).long()[None]
    logps = model(input_ids=ids).logits[0].double().log_softmax(-1)
    return logps[torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1), torch.from_numpy(completion).long()]


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    return [(rng.integers(8, 64, p), rng.integers(8, 64, c)) for p, c in ((5, 9), (2, 4), (3, 14))]


@pytest.mark.parametrize("name", [*PLAIN, *MORE])
def test_every_family_has_its_own_log_probabilities(name, pairs):
    model = family(name)
    policy = TokenLogProbs(model)
    assert policy.plain == (name in PLAIN)
    with torch.no_grad():
        wanted = torch.cat([by_full_logits(model, pair) for pair in pairs])
        found = policy(padded(pairs))
    torch.testing.assert_close(found.double(), wanted, atol=5e-6, rtol=0)
    assert wanted.std() > 0.2
    check_own(policy, pairs, settings=settings())


@pytest.mark.parametrize("name", ["gemma2", "cohere"])
def test_what_is_done_after_the_head_is_in_the_gradient(name, pairs):
    model = family(name, dtype=torch.float64)
    parameter = model.model.layers[0].self_attn.q_proj.weight
    model.requires_grad_(False)
    parameter.requires_grad_(True)
    gradients = []
    for logps in (TokenLogProbs(model)(padded(pairs)), torch.cat([by_full_logits(model, pair) for pair in pairs])):
        (logps * torch.linspace(-1, 2, len(logps))).sum().backward()
        gradients.append(parameter.grad.clone())
        parameter.grad = None
    assert gradients[1].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-6, rtol=1e-4)


def test_a_head_that_is_trained_beside_the_adapter_is_the_one_in_use(pairs):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    for chosen in ({"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}):
        config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False, **chosen})
        policy = get_peft_model(family("qwen3"), config)
        for name, parameter in policy.named_parameters():
            if "lm_head" in name and parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        ours = TokenLogProbs(policy)
        with torch.no_grad():
            wanted = by_full_logits(policy, pairs[0])
            torch.testing.assert_close(ours(padded(pairs[:1])).double(), wanted, atol=5e-6, rtol=0)
            base = by_full_logits(family("qwen3"), pairs[0])
        assert (wanted - base).abs().max() > 0.1


def test_other_logits_are_refused_by_how_much(pairs):
    policy = TokenLogProbs(family("cohere"))
    policy.plain = True  # as if there were no scale
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"of each sequence alone.*0\.94 a token on average and 2\.2 at most"),
    ):
        check_own(policy, pairs, settings=settings())


@pytest.mark.parametrize(
    ("name", "attention"), [("gpt_oss", "eager"), ("bloom", "eager"), ("opt", "sdpa"), ("falcon", "sdpa")]
)
def test_sequences_that_see_each_other_are_refused(name, attention, pairs):
    policy = TokenLogProbs(family(name, attention=attention))
    with torch.no_grad():
        check_own(policy, pairs, settings=settings())
        alone = torch.cat([policy(packed([pair])) for pair in pairs])
        assert (policy(packed(pairs)) - alone).abs().max() > 0.1  # the danger is real
        with pytest.raises(ValueError, match=r"3 sequences packed together.*give training.attention=sdpa"):
            check_own(policy, pairs, settings=settings(packing="on"))


def task_with(tmp_path, name, **changes):
    """The tiny task on a saved model of the family; nothing is scored."""
    family(name, **changes.pop("model", {})).save_pretrained(tmp_path / "model")
    return make_task(tmp_path / "task", tmp_path / "model", method="sft", **changes)


def checked(task):
    policy = base_policy(task.model, task.settings)
    check_policy(policy, task)
    return policy


def test_an_attention_that_leaves_a_soft_cap_out_is_refused(tmp_path):
    capped = {"model": {"attn_logit_softcapping": 0.5}}
    checked(task_with(tmp_path / "eager", "gemma2", attention="eager", **capped))
    with pytest.raises(ValueError, match=r"training.attention=sdpa does not compute what the model's own attention"):
        checked(task_with(tmp_path / "sdpa", "gemma2", attention="sdpa", model={"attn_logit_softcapping": 0.5}))


@pytest.mark.parametrize("packing", ["on", "off"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rotary_embedding_that_looks_for_the_longest_is_refused(tmp_path, packing, dtype):
    long = task_with(tmp_path, "phi3", model=longrope(8), packing=packing, dtype=dtype)
    with pytest.raises(ValueError, match=r"of 1\d tokens.*give\s+training\.rope_length"):
        checked(long)
    checked(replace(long, settings=long.settings.model_copy(update={"rope_length": 128})))
    checked(task_with(tmp_path / "short", "phi3", model=longrope(32), packing=packing, dtype=dtype))


@pytest.mark.parametrize("name", ["gpt_oss", "qwen2_moe", "granite", "gpt2", "bloom"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_models_pass_experts_that_share_a_product_among_them(tmp_path, name, dtype):
    checked(task_with(tmp_path, name, dtype=dtype, attention="eager"))


def test_dynamic_ntk_depends_on_the_longest_too(tmp_path):
    given = {"rope_parameters": DYNAMIC, "max_position_embeddings": 8}
    task = task_with(tmp_path, "llama", model=given)
    with pytest.raises(ValueError, match="depends on the longest position"):
        checked(task)
    checked(replace(task, settings=task.settings.model_copy(update={"rope_length": 32})))


@pytest.mark.parametrize("layout", [padded, packed])
def test_a_rope_length_gives_every_micro_batch_the_long_factors(layout, pairs):
    long = family("phi3", **longrope(2))
    policy = TokenLogProbs(family("phi3", **longrope(8)), rope_length=100)
    # The same attention factor: it comes from the ratio of the lengths, here set by hand on both.
    for module in (long.model.rotary_emb, policy.model.model.rotary_emb):
        module.attention_scaling = 1.0
    with torch.no_grad():
        wanted = torch.cat([by_full_logits(long, pair) for pair in pairs])
        plain = torch.cat([by_full_logits(policy.model, pair) for pair in pairs])
        found = policy(layout(pairs))
        assert (plain - wanted)[9:13].abs().max() > 1e-3  # six tokens alone take the short ones
        torch.testing.assert_close(found.double(), wanted, atol=5e-6, rtol=0)
        alone = torch.cat([policy(layout([pair])) for pair in pairs])
    torch.testing.assert_close(alone, found, atol=5e-6, rtol=0)


def test_a_sequence_beyond_the_models_positions_is_refused_before_it_crashes(tmp_path):
    task = task_with(tmp_path, "gpt2", model={"n_positions": 12})
    longest = max(len(prompt) + len(completion) for prompt, completion in token_pairs(task))
    assert longest > 12
    with pytest.raises(ValueError, match=rf"an example has {longest} tokens, but the model has positions for 12"):
        checked(task)


def test_the_longest_sequence_counts_mismatched_pairs(task):
    lengths = [
        len(x.prompt_ids) + len(y.completion_ids)
        for step in range(len(task.plan))
        for i, j in zip(*[getattr(task.plan.batch(step), name) for name in ("examples", "partners")], strict=True)
        if j >= 0
        for x, y in [task.reader.fetch([i, j])]
    ]
    lengths += [len(prompt) + len(completion) for prompt, completion in token_pairs(task)]
    assert longest_planned(task) == max(lengths) <= longest_bound(task)


@pytest.fixture
def turning(tmp_path):
    """Sources whose model depends on the longest position, and a shelf."""
    family("phi3", **longrope(8)).save_pretrained(tmp_path / "model")
    sources = make_sources(tmp_path / "task", tmp_path / "model", method="sft")
    sources = replace(
        sources, settings=settings(method="kto"), model=Model(path=str(tmp_path / "model"), dtype="float32")
    )
    return sources, StageDir(f"{tmp_path}/shelf")


@pytest.mark.integration
@pytest.mark.usefixtures("local_ray")
def test_the_reference_is_not_made_with_a_model_that_is_refused(turning):
    from mralign.training.reference import blocks, model_mark

    sources, shelf = turning
    task = sources.load()
    wanted = list(blocks(task.reader, task.plan, mark=model_mark(sources.model, sources.settings)))
    with pytest.raises(ValueError, match="cannot be trained as it is configured: the log-probabilities of a sequence"):
        list(_score(wanted[:2], sources=sources, shelf=shelf))
    assert not shelf.parts()
