"""Nodes to compose a method of one's own: policy, guards and predictor make a recipe, a recipe goes on a model."""

from comfy_api.latest import io

from .guards import GUARDS
from .policies import POLICIES
from .predictors import PREDICTORS
from .recipe import EncoreApplyRecipe, EncoreRecipe

COMPOSE: list[type[io.ComfyNode]] = [*POLICIES, *GUARDS, *PREDICTORS, EncoreRecipe, EncoreApplyRecipe]
