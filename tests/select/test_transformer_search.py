"""Text models of transformers, tiny and random, through the whole search from dictionaries of tokens."""

import pytest
import torch
import torch.nn.functional as F

import ribs

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 32}
MODELS = {
    "Bert": ("ForSequenceClassification", SMALL),
    "GPT2": ("LMHeadModel", {"n_embd": 16, "n_layer": 1, "n_head": 4, "vocab_size": 32, "n_positions": 16}),
    "Llama": ("ForCausalLM", {**SMALL, "num_key_value_heads": 2}),
}


def model_of(name):
    torch.manual_seed(0)
    task, options = MODELS[name]
    config = getattr(transformers, f"{name}Config")(**options)
    model = getattr(transformers, f"{name}{task}")._from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        parameter.data *= 5 if parameter.dim() > 1 else 1  # of its own accord it says next to nothing
    return model


def batches():
    """Three batches of sentences of different lengths; each has sentences that are shorter than the longest."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for samples, length in ((8, 7), (8, 12), (4, 3)):
        ids = torch.randint(1, 32, (samples, length), generator=generator)
        mask = (torch.arange(length) < torch.randint(1, length + 1, (samples, 1), generator=generator)).long()
        made.append({"input_ids": ids * mask, "attention_mask": mask})
    return made


def loss_of(name, expected, got, mask):
    """Sentence by sentence, without what is behind its end."""
    p, q = expected.logits.double().log_softmax(-1), got.logits.double().log_softmax(-1)
    if name == "Bert":
        return F.kl_div(q, p, reduction="none", log_target=True).sum(1)
    each = [
        F.kl_div(b[:n], a[:n], reduction="sum", log_target=True) / n for a, b, n in zip(p, q, mask.sum(1), strict=True)
    ]
    return torch.stack(each)


@pytest.mark.parametrize("name", MODELS)
def test_a_search_from_dictionaries_of_tokens(name):
    model = model_of(name)
    loader = batches()
    loss = ribs.losses.KLDivergence() if name == "Bert" else ribs.losses.LanguageModel()
    result = ribs.search(model, loader, ribs.Budget(bops="4/4"), bits=(2, 8), iterations=2, loss=loss, progress=False)
    assert result.bops <= result.costs.bops(4) and len(set(result.bits.values())) > 1
    assert any("matmul" in unit for unit in result.bits)
    losses = []
    with torch.no_grad():
        for batch in loader:
            losses.append(loss_of(name, model(**batch), result.model(**batch), batch["attention_mask"]))
    assert result.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    assert result.loss > 0


def test_a_mask_of_minus_infinity_is_one_of_zeros_and_ones():
    """What is masked out has no part in steps and levels, however it is masked."""
    model, losses = model_of("Bert"), []
    for minus_infinity in (False, True):
        loader = batches()
        for batch in loader if minus_infinity else ():
            mask = batch["attention_mask"][:, None, None]
            mask = mask.expand(-1, 1, mask.shape[-1], -1).float()
            batch["attention_mask"] = torch.zeros_like(mask).masked_fill(mask == 0, -torch.inf)
        losses.append(ribs.quantize(model, loader, 4, progress=False).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] > 0
