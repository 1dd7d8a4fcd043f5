"""The architectures of coverage.py: how each is made, with an input as small as it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

import ribs
from ribs.select.loss import TaskLoss


@dataclass(frozen=True)
class Architecture:
    """family: the library, and in timm the module.  shown: the input.  make: gives the network and a batch of two."""

    family: str
    shown: str
    make: Callable[[], tuple[nn.Module, Any]]
    loss: TaskLoss = ribs.losses.kl_divergence


# Of timm, by module: a small member, the side of its input, and what makes it small or lets it take that input.
SIZED = {"img_size": 64}
SHALLOW = {**SIZED, "depth": 2}
TIMM: dict[str, tuple[str, int, dict[str, Any]]] = {
    "resnet": ("resnet18", 64, {}),
    "deit": ("deit_tiny_patch16_224", 64, SHALLOW),
    "byobnet": ("test_byobnet", 64, {}),
    "convnext": ("convnext_atto", 64, {}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 64, {**SIZED, "depths": (1, 1, 1, 1)}),
    "vision_transformer": ("test_vit", 64, SIZED),
    "nfnet": ("test_nfnet", 64, {}),
    "mambaout": ("test_mambaout", 64, {}),
    "mlp_mixer": ("mixer_s32_224", 64, SIZED),
    "beit": ("beit_base_patch16_224", 64, {**SHALLOW, "embed_dim": 192, "num_heads": 3}),
    "cait": ("cait_xxs24_224", 64, SHALLOW),
    "eva": ("eva02_tiny_patch14_224", 56, {"img_size": 56, "depth": 2}),
    "vision_transformer_relpos": ("test_vit_relpos", 64, SIZED),
    "convit": ("convit_tiny", 64, {**SHALLOW, "local_up_to_layer": 1}),
    "xcit": ("xcit_nano_12_p16_224", 64, SHALLOW),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 64, {**SIZED, "depths": (1, 1, 1, 1)}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 64, {**SIZED, "depths": (1, 1, 1, 1)}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m0", 64, SIZED),
    "starnet": ("starnet_s050", 64, {}),
    "shvit": ("shvit_s1", 64, {}),
    "mobilevit": ("mobilevit_xxs", 64, {}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "regnet": ("regnetx_002", 64, {}),
    "vgg": ("vgg11", 64, {}),
    "fasternet": ("fasternet_t0", 64, {}),
    "repvit": ("repvit_m0_9", 64, {}),
    "resnetv2": ("resnetv2_18", 64, {}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "efficientnet": ("efficientnet_b0", 64, {}),
    "pit": ("pit_ti_224", 64, SIZED),
    "levit": ("levit_128s", 64, SIZED),
    "tnt": ("tnt_s_patch16_224", 64, SHALLOW),
    "crossvit": ("crossvit_tiny_240", 240, {"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))}),
    "pvt_v2": ("pvt_v2_b0", 64, {}),
    "tiny_vit": ("tiny_vit_5m_224", 224, {}),
    "efficientformer": ("efficientformer_l1", 224, {}),
    "efficientformer_v2": ("efficientformerv2_s0", 64, SIZED),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {}),
    "gcvit": ("gcvit_xxtiny", 64, SIZED),
    "hiera": ("hiera_tiny_224", 64, {**SIZED, "stages": (1, 1, 1, 1)}),
    "coat": ("coat_lite_tiny", 64, SIZED),
    "davit": ("davit_tiny", 64, {"depths": (1, 1, 1, 1)}),
    "nest": ("nest_tiny", 64, SIZED),
    "twins": ("twins_pcpvt_small", 64, {**SIZED, "depths": (1, 1, 1, 1)}),
    "visformer": ("visformer_tiny", 64, SIZED),
    "metaformer": ("poolformer_s12", 64, {}),
    "mvitv2": ("mvitv2_tiny", 64, SIZED),
    "maxxvit": ("coatnet_pico_rw_224", 64, SIZED),
    "sequencer": ("sequencer2d_s", 64, {**SIZED, "layers": (1, 1, 1, 1)}),
    "volo": ("volo_d1_224", 64, SIZED),
    "naflexvit": ("naflexvit_base_patch16_gap", 64, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "vision_transformer_sam": ("samvit_base_patch16_224", 64, {**SHALLOW, "embed_dim": 192, "num_heads": 3}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 64, SHALLOW),
    "iformer": ("iformer_t", 64, {}),
    "swiftformer": ("swiftformer_xs", 64, {}),
    "efficientvim": ("efficientvim_m1", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "lowformer": ("lowformer_b0", 64, {}),
    "csatv2": ("csatv2", 64, {}),
    "rexnet": ("rexnet_100", 64, {}),
    "cspnet": ("cs3darknet_s", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "dla": ("dla46_c", 64, {}),
    "vovnet": ("ese_vovnet19b_slim_dw", 64, {}),
    "senet": ("legacy_seresnet18", 64, {}),
    "sknet": ("skresnet18", 64, {}),
    "resnest": ("resnest14d", 64, {}),
    "selecsls": ("selecsls42", 64, {}),
    "hardcorenas": ("hardcorenas_a", 64, {}),
    "tresnet": ("tresnet_m", 64, {}),
    "res2net": ("res2net50_14w_8s", 64, {}),
    "rdnet": ("rdnet_tiny", 64, {}),
    "nextvit": ("nextvit_small", 64, {"depths": (1, 1, 5, 1)}),
    "vitamin": ("vitamin_small_224", 64, SIZED),
    "dpn": ("dpn48b", 64, {}),
    "densenet": ("densenet121", 64, {}),
    "inception_v3": ("inception_v3", 75, {}),
    "inception_v4": ("inception_v4", 75, {}),
    "xception": ("legacy_xception", 64, {}),
    "xception_aligned": ("xception41", 64, {}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "byoanet": ("halonet26t", 256, {}),
    "convmixer": ("convmixer_768_32", 64, {}),
}


def timm_families() -> set[str]:
    """timm's modules that have architectures."""
    return set(timm.list_modules())


def _images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side)


def _timm(name: str, side: int, options: dict[str, Any]) -> tuple[nn.Module, Any]:
    return timm.create_model(name, num_classes=10, **options), _images(side)


class BoxLogits(nn.Module):
    """A detector as far as its outputs have one shape: backbone and heads, without anchors and choice of boxes."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head if hasattr(detector, "head") else detector.rpn.head

    def forward(self, images: Tensor) -> Any:
        features = self.backbone(images)
        found = self.head(list(features.values()))
        return tuple(found.values()) if isinstance(found, dict) else found[0][0].flatten(1)


def _segmentation(name: str) -> tuple[nn.Module, Any]:
    make = getattr(torchvision.models.segmentation, name)
    return make(weights=None, weights_backbone=None, num_classes=5), _images(64)


def _detection(name: str) -> tuple[nn.Module, Any]:
    make = getattr(torchvision.models.detection, name)
    return BoxLogits(make(weights=None, weights_backbone=None, num_classes=5)), _images(64)


SEGMENTATION = (
    "lraspp_mobilenet_v3_large",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "deeplabv3_resnet50",
)
DETECTION = {
    "ssdlite320_mobilenet_v3_large": ribs.losses.Dense(at=1, dim=2),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ribs.losses.Embedding(distance="mse"),
    "fasterrcnn_resnet50_fpn": ribs.losses.Embedding(distance="mse"),
    "retinanet_resnet50_fpn": ribs.losses.Dense(at=0, dim=2),
    "fcos_resnet50_fpn": ribs.losses.Dense(at=0, dim=2),
    "retinanet_resnet50_fpn_v2": ribs.losses.Dense(at=0, dim=2),
}

IDS = torch.arange(1, 13).reshape(2, 6)
TEXT = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
ENCODER = {**SMALL, "vocab_size": 32}
DECODER = {**ENCODER, "use_cache": False}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4, "use_cache": False}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 32, "n_positions": 16, "use_cache": False}
DISTILBERT = {"vocab_size": 32, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24}
IMAGES = {**SMALL, "image_size": 32, "patch_size": 8}
TOKENS = ribs.losses.LanguageModel()
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None, TaskLoss]] = {
    "Bert": ("ForSequenceClassification", ENCODER, TEXT, ribs.losses.kl_divergence),
    "DistilBert": ("ForSequenceClassification", DISTILBERT, TEXT, ribs.losses.kl_divergence),
    "Roberta": ("ForMaskedLM", {**ENCODER, "pad_token_id": 0}, TEXT, TOKENS),
    "Electra": ("ForSequenceClassification", {**ENCODER, "embedding_size": 16}, TEXT, ribs.losses.kl_divergence),
    "Albert": ("ForSequenceClassification", {**ENCODER, "embedding_size": 8}, TEXT, ribs.losses.kl_divergence),
    "GPT2": ("LMHeadModel", GPT2, TEXT, TOKENS),
    "Llama": ("ForCausalLM", {**DECODER, "num_key_value_heads": 2}, TEXT, TOKENS),
    "Qwen2": ("ForCausalLM", {**DECODER, "num_key_value_heads": 2}, TEXT, TOKENS),
    "GPTNeoX": ("ForCausalLM", DECODER, TEXT, TOKENS),
    "T5": ("ForConditionalGeneration", T5, {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}, TOKENS),
    "ViT": ("ForImageClassification", IMAGES, None, ribs.losses.kl_divergence),
    "DeiT": ("ForImageClassification", IMAGES, None, ribs.losses.kl_divergence),
}


def _transformer(name: str) -> tuple[nn.Module, Any]:
    task, options, batch, _ = TRANSFORMERS[name]
    model = getattr(transformers, f"{name}{task}")(getattr(transformers, f"{name}Config")(**options))
    return model, batch if batch is not None else {"pixel_values": _images(32)}


MODELS: dict[str, Architecture] = {
    **{
        f"{name}{task}": Architecture(
            "transformers", "tokens" if batch else "3x32x32", partial(_transformer, name), loss
        )
        for name, (task, _, batch, loss) in TRANSFORMERS.items()
    },
    **{
        name: Architecture(f"timm {family}", f"3x{side}x{side}", partial(_timm, name, side, options))
        for family, (name, side, options) in TIMM.items()
    },
    **{
        name: Architecture(
            "torchvision segmentation", "3x64x64", partial(_segmentation, name), ribs.losses.Dense(at="out")
        )
        for name in SEGMENTATION
    },
    **{
        f"{name}, backbone and head": Architecture("torchvision detection", "3x64x64", partial(_detection, name), loss)
        for name, loss in DETECTION.items()
    },
}
