"""What a recipe for the inside of a network becomes where the network's blocks cannot be reached."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from .policies import Never, Policy
from .policies.guards import Guard
from .policies.place import Placed
from .predictors import Hold
from .recipe import Recipe, Site, Target
from .types import Place, Probe


def outside(recipe: Recipe) -> tuple[Recipe, str]:
    """`recipe` at the site COND, on velocities, and what had to change, as a sentence for the report."""
    policy, told = _shown_latents(recipe.policy), [f"{recipe.name} caches whole predictions of each condition instead (site cond)"]
    if isinstance(policy, Never) and not isinstance(recipe.policy, Never):
        told = [f"{recipe.name} has nothing to go by outside of the network and computes everything"]
    elif policy is not recipe.policy:
        told.append(
            f"goes by the latent instead of the {recipe.policy.probe.value}" if recipe.policy.probe.inside else "by its first policy"
        )
    predictor = recipe.predictor
    if predictor.keeps_probes or predictor.keeps_inputs:
        predictor = Hold()
        told.append("and holds the last prediction")
    new = replace(recipe, policy=policy, predictor=predictor, site=Site.COND, target=Target.OUTPUT, head=0, tail=0, spans=())
    return new, ", ".join(told) + "."


def _shown_latents(policy: Policy[Any]) -> Policy[Any]:
    """`policy` itself if it can decide outside of the network, else shown the latent; Never if it cannot be.

    A polynomial is left out: it was fitted on the network's modulated input. Of policies for several places the first is taken.
    """
    if isinstance(policy, Placed):
        return _shown_latents(policy.at(Place(0)))
    if isinstance(policy, Guard):
        inner = _shown_latents(policy.inner)
        return policy if inner is policy.inner else inner if isinstance(inner, Never) else replace(policy, inner=inner)
    if not policy.probe.inside:
        return policy
    settings: set[str] = {field.name for field in fields(policy)} if is_dataclass(policy) else set()
    if "probe" not in settings:
        return Never(f"no {policy.probe.value} outside of the network")
    plain: dict[str, Any] = {"probe": Probe.LATENT} | ({"polynomial": (1.0, 0.0)} if "polynomial" in settings else {})
    shown: Policy[Any] = replace(policy, **plain)  # type: ignore[type-var]
    return shown
