"""Tiny transformers of the library of that name, with random weights, by both ways in which it opens attention."""

import pytest
import torch
from torch import nn

from ribs.quant.inputs import Inputs
from ribs.quant.network import prepare
from test_products import check

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]])
MASK = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4, "use_cache": False}
WHISPER = {
    **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 4))},
    **{"vocab_size": 32, "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 8},
    **{"max_source_positions": 10, "max_target_positions": 16, "use_cache": False, "decoder_start_token_id": 1},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
NETS = {
    "Bert": ("ForSequenceClassification", {**SMALL, "vocab_size": 32}, {"input_ids": IDS, "attention_mask": MASK}),
    "ViT": (
        "ForImageClassification",
        {**SMALL, "image_size": 16, "patch_size": 8},
        {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))},
    ),
    "GPT2": (
        "LMHeadModel",
        {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 32, "n_positions": 16, "use_cache": False},
        {"input_ids": IDS, "attention_mask": MASK},
    ),
    "Llama": (
        "ForCausalLM",
        {**SMALL, "vocab_size": 32, "num_key_value_heads": 2, "use_cache": False},
        {"input_ids": IDS, "attention_mask": MASK},
    ),
    "T5": ("ForConditionalGeneration", T5, {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}),
    "Whisper": (
        "ForConditionalGeneration",
        WHISPER,
        {
            "input_features": torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(0)),
            "decoder_input_ids": IDS[:, :3],
        },
    ),
}


class FirstOutput(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model(**inputs)[0]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", NETS)
def test_no_product_escapes(name, implementation):
    torch.manual_seed(0)
    task, options, inputs = NETS[name]
    config = getattr(transformers, f"{name}Config")(**options)
    model = getattr(transformers, f"{name}{task}")._from_config(config, attn_implementation=implementation)
    check(FirstOutput(model).eval().requires_grad_(False), Inputs((), inputs), tolerance=1e-5)


@pytest.mark.filterwarnings("ignore")  # those of torch about flex attention that is not compiled
def test_fused_attention_behind_a_mask_is_named_with_what_opens_it():
    """The mask reads values, so that it runs on the real data."""
    task, options, inputs = NETS["Bert"]
    config = transformers.BertConfig(**{**options, "num_hidden_layers": 1})
    model = getattr(transformers, f"Bert{task}")._from_config(config, attn_implementation="flex_attention").eval()
    with pytest.raises(ValueError, match=r"- bert.encoder.layer.0.attention.self: runs .*flex.*attn_implementation"):
        prepare(model, Inputs((), inputs))
