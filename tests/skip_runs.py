"""Trainings of skip branches by the node, on tiny real models."""

import torch
from host_models import LATENT, prompt
from pack.nodes.skip.train import EncoreSkipTrain

TRAINING = {"steps": 6, "batch": 2, "learning_rate": 1e-2, "start": "new", "rank": 0, "checkpointing": True, "bfloat16": False, "seed": 0}


def material(family, count=4):
    """A batch of so many latents."""
    return {"samples": torch.randn(count, *LATENT[family], generator=torch.Generator().manual_seed(5))}


def train(model, family, name="mine", **changed):
    """The node's outputs, of the settings above but for those `changed`."""
    captions = [prompt(5, 20 + n)[0] for n in range(4)]
    given = {**TRAINING, "positive": captions, "negative": prompt(5, 12), "latents": material(family), "name": name, **changed}
    return EncoreSkipTrain.execute(model, **given).args
