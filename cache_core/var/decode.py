"""Scale after scale: plain VAR, and the two halves of CoDe (arXiv 2411.17787), which are the same loop begun or ended elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CacheError
from ..measure import Stopwatch
from .kv import KVCache
from .quantizer import Quantizer
from .sampling import Sampling, guided, pick
from .transformer import VAR


@dataclass(frozen=True, slots=True)
class Order:
    """What to paint: a class for each picture, the chance for each token [B, L] (see `draws`), and how words are drawn."""

    classes: Sequence[int]
    draws: Tensor
    settings: Sampling


@dataclass(frozen=True, slots=True)
class Draft:
    """A picture up to a scale, all that is handed from one model to the next: no keys and values, which are each model's own."""

    features: Tensor  # [B, C, S, S], what the scales so far add up to
    seen: tuple[Tensor, ...]  # of scales 1 to `scale`, what the model is shown there [B, side^2, C]
    words: tuple[Tensor, ...]  # of the scales so far [B, side^2]

    @property
    def scale(self) -> int:
        """The scale to come."""
        return len(self.words)


@dataclass(frozen=True, slots=True)
class Done:
    """One scale, when its words are chosen. `tokens` went through the blocks, `kv_bytes` are held."""

    scale: int
    side: int
    tokens: int
    watch: Stopwatch
    kv_bytes: int
    draft: Draft


@torch.no_grad()
def decode(
    model: VAR,
    quantizer: Quantizer,
    order: Order,
    *,
    draft: Draft | None = None,
    until: int | None = None,
    watch: Callable[[Done], None] = lambda done: None,
) -> Draft:
    """Decode an order from `draft`, or from nothing, `until` so many scales are there.

    A model that goes on from a draft first reads its scales and the next one in one block-causal pass. Its cache has room for these
    scales and is freed at the end, whatever ends it: `watch` is told of each scale and may raise.
    """
    scales = model.scales
    first, last = (draft.scale if draft else 0), until or len(scales)
    if not 0 <= first < last <= len(scales):
        raise CacheError(f"A VAR of {len(scales)} scales cannot decode those from {first} to {last}: choose 1 to {len(scales)}.")
    settings, guide = order.settings, order.settings.cfg > 0
    ids = torch.tensor(_checked(order.classes, model), device=model.lvl_1L.device)
    condition = model.condition(torch.cat([ids, torch.full_like(ids, model.layout.classes)]) if guide else ids)
    draft = draft or _nothing(quantizer, model, len(ids))
    layout, chance = model.layout, order.draws.to(ids.device)
    cache = KVCache(layout.depth, len(condition.start), layout.heads, scales.ends[last - 1], condition.start, layout.width // layout.heads)
    try:
        for scale in range(first, last):
            clock, span = Stopwatch(ids.is_cuda), slice(cache.length, scales.ends[scale])
            seen = _seen(draft, cache.length, scales.ends[0])
            x = model.embed(condition, seen.repeat(2, 1, 1) if guide else seen, span)
            x = model.run(x, condition, cache, model.mask(span))[:, scales.start(scale) - span.stop :]
            logits = model.logits(x, condition)
            logits = guided(logits, settings.cfg * scales.past(scale)) if guide else logits
            words = pick(logits, chance[:, scales.span(scale)], settings, settings.heat(scale, len(scales)))
            draft = _add(draft, quantizer, model, words)
            watch(Done(scale, scales.sides[scale], span.stop - span.start, clock.stop(), cache.nbytes, draft))
    finally:
        cache.free()
    return draft


def _seen(draft: Draft, length: int, first: int) -> Tensor:
    """What tokens after the first `length` are shown [B, ., C]; the first scale is shown the class alone."""
    known = torch.cat([draft.features.flatten(2).transpose(1, 2)[:, :0], *draft.seen], 1)
    return known[:, max(length - first, 0) :]


def _nothing(quantizer: Quantizer, model: VAR, pictures: int) -> Draft:
    side, book = model.scales.sides[-1], quantizer.embedding.weight
    return Draft(torch.zeros(pictures, book.shape[1], side, side, device=book.device), (), ())


def _add(draft: Draft, quantizer: Quantizer, model: VAR, words: Tensor) -> Draft:
    """The draft with the words [B, side^2] of its next scale. Sums stay in float32."""
    scales, scale = model.scales, draft.scale
    features = draft.features + quantizer.enlarged(scales, scale, words).float()
    more = (quantizer.shrunk(scales, scale + 1, features),) if scale + 1 < len(scales) else ()
    return replace(draft, features=features, seen=(*draft.seen, *more), words=(*draft.words, words))


def _checked(classes: Sequence[int], model: VAR) -> list[int]:
    wrong = [name for name in classes if not 0 <= name < model.layout.classes]
    if wrong or not classes:
        raise CacheError(f"This VAR knows classes 0 to {model.layout.classes - 1}; asked for {wrong or 'none'}.")
    return list(classes)


def check_pair(drafter: VAR, refiner: VAR, quantizer: Quantizer) -> None:
    """Raise CacheError unless both models speak of the same scales, words and classes, and the codec of the same words."""
    for what, found in {
        "scales": (drafter.scales.sides, refiner.scales.sides),
        "classes": (drafter.layout.classes, refiner.layout.classes),
        "words": (drafter.layout.words, refiner.layout.words, quantizer.embedding.num_embeddings),
        "channels of a word": (drafter.layout.latent, refiner.layout.latent, quantizer.embedding.embedding_dim),
    }.items():
        if len(set(found)) > 1:
            raise CacheError(
                f"Drafter, refiner and codec must be of one family; their {what} differ: {' and '.join(map(str, found))}. "
                "Choose files that were published together."
            )
