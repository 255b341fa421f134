"""Nodes that go around a policy: each forbids reuse in one circumstance."""

from typing import Any

from ...cache_core import RecipeError
from ...cache_core import policies as p
from .base import POLICY, PolicyPart, real, whole

MOST = 1000.0  # sigma of the noisiest models is far below


class GuardPart(PolicyPart):
    """A guard: takes a policy and gives one."""

    output = ("policy", "To another guard, or to Encore Recipe.")

    @classmethod
    def widgets(cls) -> list[Any]:
        """The guard's own inputs."""
        raise NotImplementedError

    @classmethod
    def guard(cls, *args: Any, **settings: Any) -> p.Guard:
        """The guard around a policy, its first argument."""
        raise NotImplementedError

    @classmethod
    def inputs(cls) -> list[Any]:
        return [POLICY.Input("policy", tooltip="The policy to guard, or a guard around one."), *cls.widgets()]

    @classmethod
    def build(cls, policy: p.Policy[Any], **settings: Any) -> p.Guard:
        if isinstance(policy, p.Budget):
            raise RecipeError(
                f"{cls.title} is connected behind Guard: Budget, which has to be the last guard before the recipe, since it alone reuses "
                f"where others would compute. Connect {cls.title} before the budget."
            )
        return cls.guard(policy, **settings)


class EncoreGuardWarmup(GuardPart):
    """The first evaluations."""

    node_id, title = "EncoreGuardWarmup", "Guard: Warm-up"
    summary = "Computes the first steps of every sampling."

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            whole(
                "evaluations", 3, (0, 1000), "Calls of the model computed at the start, 0 to 1000; samplers such as heun make two a step."
            )
        ]

    @classmethod
    def guard(cls, inner: p.Policy[Any], *, evaluations: int) -> p.Guard:
        return p.Warmup(inner, evaluations)


class EncoreGuardRetained(GuardPart):
    """The first share of the steps."""

    node_id, title = "EncoreGuardRetained", "Guard: Retained"
    summary = "Computes the first share of the steps, as MagCache and DiCache do."

    @classmethod
    def widgets(cls) -> list[Any]:
        more = "Added to share x steps before the rest is cut off, 0.0 to 1.0: 0.5 rounds (MagCache), 1.0 is a step more (DiCache on FLUX)."
        return [
            real("share", 0.2, (0.0, 1.0), "Share of the sampler's steps computed at the start, 0.0 to 1.0."),
            real("more", 0.5, (0.0, 1.0), more),
        ]

    @classmethod
    def guard(cls, inner: p.Policy[Any], *, share: float, more: float) -> p.Guard:
        return p.Retained(inner, share, more)


class EncoreGuardTail(GuardPart):
    """The last steps."""

    node_id, title = "EncoreGuardTail", "Guard: Tail"
    summary = "Computes the last steps of every sampling."

    @classmethod
    def widgets(cls) -> list[Any]:
        return [whole("steps", 1, (0, 1000), "Steps computed at the end, 0 to 1000. They decide on fine detail.")]

    @classmethod
    def guard(cls, inner: p.Policy[Any], *, steps: int) -> p.Guard:
        return p.Tail(inner, steps)


class EncoreGuardWithin(GuardPart):
    """A window of steps or noise levels."""

    node_id, title = "EncoreGuardWithin", "Guard: Within"
    summary = "Allows reuse only in a part of the sampling, by the fraction of the steps and by the noise level."

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            real("start", 0.0, (0.0, 1.0), "Fraction of the sampler's steps at which reuse may begin, 0.0 to 1.0."),
            real("end", 1.0, (0.0, 1.0), "Fraction of the sampler's steps at which it ends, 0.0 to 1.0."),
            real(
                "high",
                MOST,
                (0.0, MOST),
                "Noise level, sigma, from which downwards steps may be reused, 0 to 1000. Flux and Wan start at 1.",
            ),
            real("low", 0.0, (0.0, MOST), "Noise level, sigma, down to which they may be reused, 0 to 1000."),
        ]

    @classmethod
    def guard(cls, inner: p.Policy[Any], *, start: float, end: float, high: float, low: float) -> p.Guard:
        return p.Within(inner, start, end, low, high)


class EncoreGuardAtMost(GuardPart):
    """A longest run."""

    node_id, title = "EncoreGuardAtMost", "Guard: At Most"
    summary = "Allows only so many reused steps in a row."

    @classmethod
    def widgets(cls) -> list[Any]:
        return [whole("reuses", 3, (0, 1000), "Most steps reused in a row, 0 (compute all) to 1000.")]

    @classmethod
    def guard(cls, inner: p.Policy[Any], *, reuses: int) -> p.Guard:
        return p.AtMost(inner, reuses)


class EncoreGuardBudget(GuardPart):
    """An exact number of computed evaluations."""

    node_id, title = "EncoreGuardBudget", "Guard: Budget"
    summary = "Computes exactly so many steps: forces the rest once the policy has saved too many, and none once they are spent."

    @classmethod
    def widgets(cls) -> list[Any]:
        return [whole("evaluations", 12, (1, 1000), "Steps to compute in all, 1 to 1000. As many as the sampler takes, or more: all.")]

    @classmethod
    def guard(cls, inner: p.Policy[Any], *, evaluations: int) -> p.Guard:
        return p.Budget(inner, evaluations)


GUARDS = [EncoreGuardWarmup, EncoreGuardRetained, EncoreGuardTail, EncoreGuardWithin, EncoreGuardAtMost, EncoreGuardBudget]
