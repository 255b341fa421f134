"""The workflows of two models on one picture: CoDe on the demo VARs, and Encore Relay on Wan 2.2."""

from collections.abc import Iterator

from .graph import Graph, Output
from .workflow import Info

CLASSES = "red circle\nblue star\ngreen ring\nyellow cross"
DRAFTED = 5
VAR_SAMPLING = {"classes": CLASSES, "pictures": 2, "seed": 3, "cfg": 1.5, "top_k": 100, "top_p": 0.96, "temperature": 1.0}
FOX = "A red fox trots through deep fresh snow between pine trees, breath steaming, low winter sun, the camera follows alongside"
WAN = ("wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors")


def graphs(object_info: Info) -> Iterator[tuple[str, Graph]]:
    """Name and workflow of both."""
    for name, make in (("code_demo", code), ("wan22_relay", relay)):
        yield name, make(Graph(object_info))


def code(graph: Graph) -> Graph:
    """A drafter alone above, drafter and refiner below."""
    graph.note(
        (0, 60, 360, 400),
        "## CoDe, before and after\n\nTwo small VARs that came with Encore paint eight pictures of four classes. Upper row: the large one "
        "makes all seven scales. Lower row: it makes five, and one of a tenth of its size refines the rest.\n\n**Look at** the pictures "
        "and the two reports: seconds of each scale, and the memory of keys, values and weights.\n\nThe published models are used alike: "
        "put them into models/var and choose them in the loaders.",
    )
    names = {"vae_name": "demo-vqvae.safetensors", "weight_dtype": "default"}
    drafter, refiner = (
        graph.add("EncoreVARLoader", place, names | {"var_name": f"demo-{role}_{DRAFTED}.safetensors"}, f"The {role}")
        for role, place in (("drafter", (0, 540, 360, 130)), ("refiner", (0, 750, 360, 130)))
    )
    plain = names | {"var_name": "demo-drafter.safetensors"}
    alone = graph.add("EncoreVARLoader", (0, 960, 360, 130), plain, "The large one, not specialised")
    graph.group("Models", (-20, 0, 400, 1110))
    before = graph.add("EncoreVARSampler", (420, 60, 360, 420), VAR_SAMPLING | {"var": (alone, "var")})
    both: dict[str, Output] = {"drafter": (drafter, "var"), "refiner": (refiner, "var")}
    after = graph.add("EncoreCoDeSampler", (420, 620, 360, 480), VAR_SAMPLING | both | {"drafted": DRAFTED})
    for title, top, sampler, prefix in (("One model", 0, before, "var"), ("CoDe", 560, after, "code")):
        graph.add("SaveImage", (820, top + 60, 420, 440), {"images": (sampler, "IMAGE"), "filename_prefix": f"encore/{prefix}"})
        graph.add("PreviewAny", (1280, top + 60, 520, 440), {"source": (sampler, "report")}, f"Report: {title}")
        graph.group(title, (400, top, 1420, 550))
    return graph


def relay(graph: Graph) -> Graph:
    """The high-noise model of Wan 2.2, then the low-noise one, each without and with TRACE."""
    graph.note(
        (0, 60, 360, 330),
        "## Wan 2.2 by relay, before and after\n\nThe high-noise model makes the steps down to sigma 0.875, is offloaded, and the "
        "low-noise model goes on. Upper row: every step computed. Lower row: **TRACE** on both.\n\n**Encore Report** shows the steps of "
        "both models as one sampling, and says where the hand-over was.",
    )
    models = [
        graph.add("UNETLoader", (0, 460 + 160 * n, 360, 90), {"unet_name": name, "weight_dtype": "default"}) for n, name in enumerate(WAN)
    ]
    clip = graph.add("CLIPLoader", (0, 780, 360, 120), {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"})
    vae = graph.add("VAELoader", (0, 970, 360, 70), {"vae_name": "wan_2.1_vae.safetensors"})
    latent = graph.add("EmptyHunyuanLatentVideo", (0, 1110, 360, 150), {"width": 832, "height": 480, "length": 33, "batch_size": 1})
    shifted = [
        graph.add("ModelSamplingSD3", (410, 460 + 160 * n, 370, 70), {"model": (model, "MODEL"), "shift": 8.0})
        for n, model in enumerate(models)
    ]
    words = [
        graph.add("CLIPTextEncode", (410, top, 370, 210), {"clip": (clip, "CLIP"), "text": text})
        for top, text in ((60, FOX), (780, "static, blurred"))
    ]
    graph.group("Wan 2.2 and prompts", (-20, 0, 820, 1280))
    ends = []
    for title, top, cache, prefix in (("Uncached", 0, "EncoreMeasure", "uncached"), ("TRACE 2x on both", 740, "EncoreTrace", "cached")):
        pair = [graph.add(cache, (840, top + 60 + 260 * n, 320, 200), {"model": (m, "MODEL"), "speed": 2.0}) for n, m in enumerate(shifted)]
        given = {"model": (pair[0], "model"), "model_after": (pair[1], "model"), "sigma": 0.875, "seed": 12, "steps": 20}
        given |= {"positive": (words[0], "CONDITIONING"), "negative": (words[1], "CONDITIONING"), "latent_image": (latent, "LATENT")}
        ends.append(graph.add("EncoreRelay", (1210, top + 60, 320, 420), given))
        decoded = graph.add("VAEDecode", (1210, top + 530, 320, 60), {"samples": (ends[-1], "LATENT"), "vae": (vae, "VAE")})
        clips = graph.add("CreateVideo", (1580, top + 60, 380, 110), {"images": (decoded, "IMAGE"), "fps": 16.0})
        graph.add("SaveVideo", (1580, top + 240, 380, 106), {"video": (clips, "VIDEO"), "filename_prefix": f"encore/wan22_{prefix}"})
        graph.group(title, (820, top, 1160, 620))
    report = graph.add("EncoreReport", (2030, 60, 460, 370), {"latent": (ends[1], "LATENT"), "baseline": (ends[0], "LATENT")})
    graph.add("PreviewImage", (2030, 500, 460, 300), {"images": (report, "timeline")})
    graph.group("Before and after", (2010, 0, 500, 820))
    return graph
