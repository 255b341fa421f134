"""Which published numbers go with the loaded model."""

from collections.abc import Mapping
from typing import Any, TypeVar

from ...cache_core.masks import PublishedMask
from ...cache_core.tables import (
    FLUX_CHANGE,
    FLUX_GOLDEN,
    FLUX_LEMICA,
    FLUX_MAGNITUDE,
    SCM_CODE,
    WAN_1B_CHANGE,
    WAN_1B_CHANGE_RETAINED,
    WAN_1B_MAGNITUDE,
    WAN_1B_MAGNITUDE_UNCOND,
    WAN_14B_CHANGE,
    WAN_14B_CHANGE_RETAINED,
    WAN_14B_LEMICA,
    WAN_14B_MAGNITUDE,
    WAN_14B_MAGNITUDE_UNCOND,
    WAN_GOLDEN,
    WAN_I2V_480_CHANGE,
    WAN_I2V_480_CHANGE_RETAINED,
    WAN_I2V_480_MAGNITUDE,
    WAN_I2V_480_MAGNITUDE_UNCOND,
    WAN_I2V_720_CHANGE,
    WAN_I2V_720_CHANGE_RETAINED,
    WAN_I2V_720_MAGNITUDE,
    WAN_I2V_720_MAGNITUDE_UNCOND,
    WAN_I2V_LEMICA,
    WAN_LEMICA,
    Network,
    Polynomial,
    closest,
)
from ..adapters.families import family_of

T = TypeVar("T")
AUTO = "auto"

# What ComfyUI-TeaCache and ComfyUI-MagCache call them.
POLYNOMIALS: dict[str, Polynomial] = {  # of two for one model, auto takes the first
    "flux": FLUX_CHANGE,
    "wan2.1_t2v_1.3B_ret_mode": WAN_1B_CHANGE_RETAINED,
    "wan2.1_t2v_14B_ret_mode": WAN_14B_CHANGE_RETAINED,
    "wan2.1_i2v_480p_14B_ret_mode": WAN_I2V_480_CHANGE_RETAINED,
    "wan2.1_i2v_720p_14B_ret_mode": WAN_I2V_720_CHANGE_RETAINED,
    "wan2.1_t2v_1.3B": WAN_1B_CHANGE,
    "wan2.1_t2v_14B": WAN_14B_CHANGE,
    "wan2.1_i2v_480p_14B": WAN_I2V_480_CHANGE,
    "wan2.1_i2v_720p_14B": WAN_I2V_720_CHANGE,
}
CURVES = {
    "flux": (FLUX_MAGNITUDE,),
    "wan2.1_t2v_1.3B": (WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND),
    "wan2.1_t2v_14B": (WAN_14B_MAGNITUDE, WAN_14B_MAGNITUDE_UNCOND),
    "wan2.1_i2v_480p_14B": (WAN_I2V_480_MAGNITUDE, WAN_I2V_480_MAGNITUDE_UNCOND),
    "wan2.1_i2v_720p_14B": (WAN_I2V_720_MAGNITUDE, WAN_I2V_720_MAGNITUDE_UNCOND),
}
LEMICA = {masks[0].model: masks for masks in (FLUX_LEMICA, WAN_LEMICA, WAN_14B_LEMICA, WAN_I2V_LEMICA)}
GOLDEN = {masks[0].model: masks for masks in (FLUX_GOLDEN, WAN_GOLDEN)}
STEP_MASKS = {mask.name.removeprefix("cache-dit "): mask for mask in SCM_CODE}


def network_of(model: Any) -> Network:
    """What the network of a ModelPatcher looks like, by the host's own account of it; sizes of unknown families are 0."""
    family, config = family_of(model), model.model.model_config.unet_config
    if family == "flux":
        return Network(family, config["hidden_size"], config["depth"] + config["depth_single_blocks"], config["in_channels"])
    if family == "wan":
        return Network(family, config["dim"], config["num_layers"], config["in_dim"])
    return Network(family)


def pick(model: Any, tables: Mapping[str, T], models: Mapping[str, str], wish: str = AUTO) -> tuple[T, bool, tuple[str, ...]]:
    """The table called `wish`, or the one whose model is most like the loaded one; whether it was made for it; the notes.

    `models` says for each table the name that its model has in `cache_core.tables.MODELS`.
    """
    network = network_of(model)
    if wish != AUTO:
        return tables[wish], closest(network, [models[wish]])[1], ()
    name, own = closest(network, models.values())
    key = next(key for key, of in models.items() if of == name)
    size = f" ({network.width} wide, {network.blocks} blocks)" if network.width else ""
    note = f"No numbers were published for this model{size}: those of {name} stand in, which were not fitted on it."
    return tables[key], own, () if own else (note,)


def mask_names(masks: Mapping[str, tuple[PublishedMask, ...]]) -> dict[str, PublishedMask]:
    """Each mask by its model and its name."""
    return {f"{mask.model}, {mask.name}": mask for found in masks.values() for mask in found}
