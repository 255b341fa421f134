"""How a model's inner representations repeat from step to step: by token, channel and frequency, by condition, and what foretells it.

Two residuals of neighbouring steps are compared by energy: |new - old|^2 / |new|^2, summed over everything that is not asked
for. Nothing is kept of them but such sums. Changes of whole tensors are Eq 6 of arXiv:2312.03209, as in a profile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import CacheError
from ..types import Observation
from .profile import Changes, Profile, relative_change

BANDS = 4  # rings of equal width in the plane of spatial frequencies, the lowest first


class Redundancy:
    """What the residuals of blocks show; `grid` are the picture's frames, rows and columns of tokens.

    `text` says where among a block's tokens those of a text are, before or after the picture's; where there is none, the grid's are
    the last ones. Reference pictures that follow a picture which has a text are left out. If the policy was shown a probe, its
    change is noted too.
    """

    def __init__(self, grid: tuple[int, int, int], text: Literal["before", "after"] | None = None) -> None:
        self.changes = Changes()
        self._grid, self._text = grid, text
        self._rings = rings(grid[1], grid[2])
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._bands: dict[tuple[int, int], Tensor] = {}
        self._probes: list[list[Tensor]] = []
        self._shown: Tensor | None = None

    def begin(self) -> Changes:
        """Start another sampling; what it will show of whole residuals."""
        self.changes, self._shown = Changes(), None
        self._probes.append([])
        return self.changes

    def look(self, seen: Observation, new: Tensor, old: Tensor | None) -> None:
        """A residual `new` [B, L, D] and the one before it, if any; `seen.x` are the picture's tokens among the L.

        Raises CacheError if they are fewer than the grid's. What comes from outside of the network is left out.
        """
        self.changes.look(seen, new, old)
        if seen.place is None:
            return
        block = seen.place.index
        if block == 0 and seen.probe is not None:
            self._probe(seen)
        if old is None or seen.place.branch is not None:
            return
        rows = self._picture(seen, new.shape[1])
        gap, whole = (part[:, rows].float() for part in (new - old.to(new.device), new))
        for name, axes in (("tokens", (0, 2)), ("channels", (0, 1))):
            self._add(self._sums, (name, block), torch.stack([part.square().sum(axes) for part in (gap, whole)]))
        self._add(self._bands, (block, seen.step.index), torch.stack([self._energies(part) for part in (gap, whole)]))

    def tokens(self) -> Tensor:
        """Relative change of each place of the picture, [blocks, F, H, W], mean 1 over a block's places."""
        shares = self._shares("tokens")
        return shares.reshape(len(shares), *self._grid)

    def channels(self) -> Tensor:
        """Relative change of each channel, [blocks, D], mean 1 over a block's channels."""
        return self._shares("channels")

    def bands(self, steps: int) -> Tensor:
        """Relative change of each band, [blocks, steps, BANDS]; 0 at step 0."""
        blocks = 1 + max(block for block, _ in self._bands)
        found = torch.zeros(blocks, steps, BANDS)
        for (block, step), (gap, whole) in self._bands.items():
            found[block, step] = (gap / whole.clamp_min(1e-30)).cpu()
        return found

    def probes(self) -> Tensor | None:
        """Change of the probe, [trajectories, steps], at step 0 zero; of the first condition. None if none was shown."""
        found = [torch.stack(rows, 1) for rows in self._probes if rows]
        return torch.cat(found) if found else None

    def _picture(self, seen: Observation, total: int) -> slice:
        """Where among all `total` tokens of a block the grid's are."""
        assert seen.x is not None
        shown, count = seen.x.shape[1], self._grid[0] * self._grid[1] * self._grid[2]
        if shown < count:
            raise CacheError(
                f"A block has {shown} tokens of the picture, and {' x '.join(map(str, self._grid))} were expected of this latent. "
                "Analyse without nodes that cut the latent or its tokens into parts, such as context windows."
            )
        first = {"before": total - shown, "after": 0, None: total - count}[self._text]
        return slice(first, first + count)

    def _probe(self, seen: Observation) -> None:
        """Note how far the probe moved since the last step; of several conditions the first to come counts."""
        assert seen.probe is not None
        rows, before = self._probes[-1], self._shown
        if len(rows) > seen.step.index:
            return
        rows.append(torch.zeros(len(seen.probe)) if before is None else relative_change(seen.probe, before))
        self._shown = seen.probe.clone()

    def _energies(self, part: Tensor) -> Tensor:
        """Energy [BANDS] of tokens [B, F H W, D] in each ring of frequencies over the picture."""
        waves = torch.fft.fft2(part.unflatten(1, self._grid).movedim(-1, 1))  # type: ignore[no-untyped-call]
        flat = waves.abs().square().sum((0, 1, 2)).flatten()
        return torch.zeros(BANDS, device=part.device).index_add(0, self._rings.to(part.device), flat)

    def _shares(self, name: str) -> Tensor:
        blocks = sorted(block for known, block in self._sums if known == name)
        rows = torch.stack([self._sums[name, block][0] / self._sums[name, block][1].clamp_min(1e-30) for block in blocks]).cpu()
        return rows / rows.mean(-1, keepdim=True)

    @staticmethod
    def _add(sums: dict[Any, Tensor], key: Any, found: Tensor) -> None:
        sums[key] = sums[key] + found if key in sums else found


class Outputs:
    """What the predictions of each condition show: their own change, that of their difference, and that of the latent."""

    def __init__(self) -> None:
        self._steps: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def look(self, seen: Observation, new: Tensor, old: Tensor | None) -> None:
        """A velocity `new` [B, C, ...]; the conditions of a step come in one order, the positive first."""
        assert seen.x is not None
        self._steps.setdefault(seen.step.index, []).append((new.detach().clone(), seen.x.detach().clone()))

    def changes(self) -> dict[str, Tensor]:
        """Relative L1 changes [B, steps] by name; "negative" and "difference" only with CFG."""
        order = sorted(self._steps)
        lines = {"latent": [self._steps[n][0][1] for n in order], "prediction": [self._steps[n][0][0] for n in order]}
        if all(len(self._steps[n]) > 1 for n in order):
            lines["negative"] = [self._steps[n][1][0] for n in order]
            lines["difference"] = [self._steps[n][0][0] - self._steps[n][1][0] for n in order]
        return {name: _along(line) for name, line in lines.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """All that an analysis found. `outputs` and `probes` are changes [trajectories, steps] by name; `notes` say what is missing."""

    profile: Profile
    tokens: Tensor
    channels: Tensor
    bands: Tensor
    outputs: Mapping[str, Tensor]
    probes: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    def numbers(self) -> dict[str, Any]:
        """The figures in words that JSON has: of each place, of bands and channels, of conditions, of probes."""
        profile = self.profile
        rows = zip(profile.places, profile.changes.unbind(1), strict=True)
        places = {
            f"block {place.index} {profile.branch(place)}".strip(): {
                "change": float(row[:, 1:].mean()),
                "due_to_step": explained(row[:, 1:]),
            }
            for place, row in rows
        }
        truth = self.outputs["prediction"][:, 1:]
        probes = {
            name: {"over_steps": correlation(row[:, 1:], truth), "within_steps": correlation(centred(row[:, 1:]), centred(truth))}
            for name, row in self.probes.items()
        }
        most = self.channels.sort(-1, descending=True).values.cumsum(-1) / self.channels.shape[-1]
        return {
            "places": places,
            "bands": self.bands[:, 1:].mean((0, 1)).sqrt().tolist(),
            "tokens": {"least": float(self.tokens.min()), "most": float(self.tokens.max()), "frames": self.tokens.mean((0, 2, 3)).tolist()},
            "channels_for_half": float((most < 0.5).float().mean()),
            "outputs": {name: float(row[:, 1:].mean()) for name, row in self.outputs.items()},
            "probes": probes,
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def findings(profile: Profile, inner: Redundancy, outputs: Sequence[Mapping[str, Tensor]], notes: Sequence[str] = ()) -> Findings:
    """Everything together; the first block's residual and that of the block in the middle are probes too."""
    joint = {name: torch.cat([part[name] for part in outputs]) for name in outputs[0]}
    probes = {"latent": joint["latent"], "first block": profile.changes[:, 0], "middle block": profile.changes[:, profile.blocks // 2]}
    shown = inner.probes()
    probes |= {} if shown is None else {"modulated input": shown}
    return Findings(profile, inner.tokens(), inner.channels(), inner.bands(profile.steps), joint, probes, tuple(notes))


def rings(height: int, width: int) -> Tensor:
    """The band of each frequency of a picture's FFT, [height * width]."""
    down, across = torch.fft.fftfreq(height).abs(), torch.fft.fftfreq(width).abs()
    radius = torch.maximum(down[:, None], across[None]) / 0.5
    return (radius * BANDS).long().clamp_max(BANDS - 1).flatten()


def explained(rows: Tensor) -> float:
    """Share of the variance of changes [trajectories, steps] that the step alone explains; what is left depends on prompt and noise."""
    total = rows.var(correction=0)
    return float(1.0 - centred(rows).square().mean() / total) if total > 0 else 1.0


def centred(rows: Tensor) -> Tensor:
    """Rows [trajectories, steps] less their mean over trajectories."""
    return rows - rows.mean(0)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, over all elements; 0 where one of them does not vary."""
    x, y = a.flatten() - a.mean(), b.flatten() - b.mean()
    size = x.norm() * y.norm()
    return float((x * y).sum() / size) if size > 1e-12 else 0.0


def _along(line: list[Tensor]) -> Tensor:
    """Eq 6 along a line of tensors [B, ...], [B, steps]."""
    return torch.stack([torch.zeros(len(line[0])), *(relative_change(b, a) for a, b in pairwise(line))], 1)
