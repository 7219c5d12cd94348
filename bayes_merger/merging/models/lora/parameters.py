"""Which layer and which parameter of it a key of a LoRA file means, by the end of the key."""

from __future__ import annotations

import re

from bayes_merger.errors import CheckpointError, printable

_ADAPTER = r"(?:\.(?!weight$|bias$)[\w-]+)?(?:\.weight)?$"  # PEFT's name of the adapter, which some files keep

_ENDS = (  # the end of a key, which parameter that is, and what belongs to the layer's name; the first that fits counts
    (re.compile(r"\.processor(\.\w+)_lora\.alpha$"), "alpha", r"\1"),
    (re.compile(r"(?:[._]lora|\.lora_linear_layer|\.lora_[AB])?\.(?:lora_|network_)?alpha$"), "alpha", ""),
    (re.compile(r"\.processor\.(qkv|proj)_lora([12])\.(down|up)\.weight$"), r"\3", r".\2_attn.\1"),
    (re.compile(r"(?<=\d)\.processor\.qkv_lora\.(down|up)\.weight$"), r"\1", ".linear1_qkv"),
    (re.compile(r"(?<=\d)\.processor\.proj_lora\.(down|up)\.weight$"), r"\1", ".linear2"),
    (re.compile(r"\.processor\.(to_out)_lora\.(down|up)\.weight$"), r"\2", ".to_out.0"),
    (re.compile(r"\.processor\.(\w+)_lora\.(down|up)\.weight$"), r"\2", r".\1"),
    (re.compile(r"(?:\.lora_|\.lora\.|\.lora_linear_layer\.|_lora\.)(down|up|mid)\.weight$"), r"\1", ""),
    (re.compile(r"\.lora_A" + _ADAPTER), "down", ""),
    (re.compile(r"\.lora_B" + _ADAPTER), "up", ""),
    (re.compile(r"\.lora_B(?:\.[\w-]+)?\.bias$"), "up_bias", ""),
    (re.compile(r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))" + _ADAPTER), r"\1", ""),
    (re.compile(r"\.([ab][12m])\.weight$"), r"\1", ""),
    (re.compile(r"\.(oft_blocks|rescale|on_input|scale)$"), r"\1", ""),
    (re.compile(r"\.(oft_R|boft_R|boft_s|ia3_l)" + _ADAPTER), r"\1", ""),
    (re.compile(r"\.(?:diff|w_norm)$"), "diff", ""),
    (re.compile(r"\.(?:diff_b|b_norm)$"), "diff_b", ""),
    (re.compile(r"\.(set_weight|reshape_weight)$"), r"\1", ""),
    (re.compile(r"(?:\.lora)?\.dora(?:_scale)?(?:\.weight)?$"), "dora_scale", ""),
    (re.compile(r"\.lora_magnitude_vector" + _ADAPTER), "magnitude", ""),
    (re.compile(r"\.weight$"), "weight", ""),  # IA3's, and whole tensors, which are no difference
)
_LONGEST = 400  # characters of a key; real ones have 150, and the expressions above take longer the longer a key is
_XLABS = {"1_attn": "img_attn", "2_attn": "txt_attn"}
_FOREIGN = re.compile(
    r"\.(oft_diag|oft_r|(?:oft|lora)_embedding_\w+|lora_A(?:\.\w+)?\.bias|glora_\w+|vera_\w+|vblora_\w+|randlora_\w+"
    r"|fourierft_\w+|waveft_\w+|hra_\w+|c3a_\w+|bone_\w+|miss_\w+|shira_\w+|road_\w+|delora_\w+|gralora_\w+|hira_\w+"
    r"|poly_lora_\w+|ln_tuning\w*|lily_\w+|psoft_\w+|tinylora_\w+)(?:\.\w+)*$"
)


def parameter_of(key: str) -> tuple[str, str]:
    """The layer's name and which of its parameters a key is: ``up``, ``down``, ``alpha``, ``hada_w1_a``, ``diff``, ...

    Returns:
        The key and nothing for an unknown end.

    Raises:
        CheckpointError: it belongs to an adapter that this program cannot apply.
    """
    if len(key) > _LONGEST:
        return key, ""
    if foreign := _FOREIGN.search(key):
        raise CheckpointError(
            f"'{printable(key)}': adapters with {foreign[1]} are not supported; give a LoRA, LoCon, LoHa, LoKr, GLoRA, "
            "OFT, BOFT or IA3"
        )
    for pattern, part, layer in _ENDS:
        if found := pattern.search(key):
            added = found.expand(layer)
            for theirs, flux in _XLABS.items():
                added = added.replace(theirs, flux)
            return key[: found.start()] + added, found.expand(part)
    return key, ""
