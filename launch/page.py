"""report.html: one file to look at, with the pictures inside it."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .measure import BRANCHES, Measured, Sample, clips, pictures, read
from .quality import psnr

STYLE = Path(__file__).with_name("page.css")
STILLS = 4  # pictures, or frames of a clip, shown for each workflow
GAIN = 16  # how much the difference picture is amplified
TIMES, NONE = "\N{MULTIPLICATION SIGN}", "-"
SMALL = 400  # pixels; a smaller picture is enlarged with its pixels kept sharp
NAMES = ("every step computed", "with Encore")
TITLES = {"flux": "Flux: pictures", "wan": "Wan: a clip"}


def page(measured: Sequence[Measured], host: Mapping[str, Any]) -> str:
    """The whole document."""
    about = " · ".join(f"{escape(key)} {escape(str(value))}" for key, value in host.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Encore: before and after</title><style>{STYLE.read_text()}</style></head><body><header><h1>Encore</h1>"
        "<p>The same model, prompt and seed, sampled twice: once with every step computed, once with Encore, "
        "which computes some of the steps and forecasts the others from them.</p></header><main>"
        f"{''.join(_section(one) for one in measured)}{_table(measured)}</main><footer>{about}</footer></body></html>"
    )


def _section(one: Measured) -> str:
    """One workflow: the headline, the bars, the pictures, the steps."""
    sample, row = one.samples[0], one.row
    family = one.name.split("_")[1]
    notes = "".join(f"<li>{escape(note)}</li>" for note in sample.run.get("notes", []))
    return (
        f"<section><h2>{escape(TITLES.get(family, one.name))} "
        f"<small>{escape(Path(row['model']).stem)}, {row['steps']} steps, seed {sample.seed}</small></h2>"
        f'<div class="facts">{"".join(_facts(row))}</div>{_bars(row)}'
        f'<div class="gallery">{"".join(_gallery(sample))}</div>'
        f"<h3>What was done at each step</h3>{_timeline(sample)}{f'<ul>{notes}</ul>' if notes else ''}</section>"
    )


def _facts(row: Mapping[str, Any]) -> Iterator[str]:
    """The four numbers to take home."""
    reduction = row["macs_reduction"]
    yield _fact(f"{row['speedup']:.2f}{TIMES}", "faster", "seconds of the denoising loop")
    yield _fact(NONE if reduction is None else f"{reduction:.2f}{TIMES}", "fewer MACs", "multiply-accumulates really made")
    yield _fact(f"{row['psnr_db']:.1f} dB", "PSNR", f"lowest {row['psnr_db_lowest']:.1f}; from about 40 hard to tell apart")
    yield _fact(f"{row['ssim']:.4f}", "SSIM", "1 is identical")


def _fact(value: str, name: str, gloss: str) -> str:
    """One number with its name."""
    return f"<div><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(gloss)}</small></div>"


def _bars(row: Mapping[str, Any]) -> str:
    """Seconds without and with the cache, to scale."""
    longest = max(row["uncached_s"], row["cached_s"])
    lines = [
        f'<div class="bar {branch}"><span>{name}</span><i style="width:{seconds / longest * 100:.1f}%"></i><b>{seconds:.2f} s</b></div>'
        for branch, name, seconds in zip(BRANCHES, NAMES, (row["uncached_s"], row["cached_s"]), strict=True)
    ]
    return f'<div class="bars">{"".join(lines)}</div>'


def _gallery(sample: Sample) -> Iterator[str]:
    """Clips, then stills: before, after, and what differs."""
    yield "".join(f'<p class="head">{title}</p>' for title in (*NAMES, f"difference, {TIMES}{GAIN}"))
    for before, after in zip(*(clips(sample.files[branch]) for branch in BRANCHES), strict=True):
        yield f"{_clip(before)}{_clip(after)}<p class='gloss'>Both clips, looped. Frames of them below.</p>"
    stills = list(zip(*(pictures(sample.files[branch]) for branch in BRANCHES), strict=True))
    for number in sorted({round(place) for place in np.linspace(0, len(stills) - 1, min(STILLS, len(stills)))}):
        before, after = stills[number]
        a, b = read(before), read(after)
        difference = np.clip(np.abs(a.astype(np.int16) - b.astype(np.int16)) * GAIN, 0, 255).astype(np.uint8)
        yield "".join(
            _picture(png, f"{before.stem.split('_')[0]} {number + 1}", a.shape[1]) for png in (before.read_bytes(), after.read_bytes())
        )
        yield f"<figure>{_picture(_png(difference), 'difference', a.shape[1])}<figcaption>{psnr(a, b):.1f} dB</figcaption></figure>"


def _png(pixels: Any) -> bytes:
    """Pixels [H, W, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _inline(content: bytes, kind: str) -> str:
    """A file as an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _picture(png: bytes, name: str, width: int) -> str:
    """A still."""
    return f'<img{" class=small" if width < SMALL else ""} alt="{escape(name)}" src="{_inline(png, "image/png")}">'


def _clip(file: Path) -> str:
    """A clip that plays by itself."""
    return f'<video class="small" autoplay loop muted playsinline src="{_inline(file.read_bytes(), f"video/{file.suffix[1:]}")}"></video>'


def _timeline(sample: Sample) -> str:
    """Milliseconds of each evaluation: behind, every step computed; before it, with Encore, reused steps marked."""
    entries, others = sample.run["entries"], sample.baseline["entries"]
    tallest = sorted(entry["seconds"] for entry in [*entries, *others])[-3] or 1.0  # the first step of all is an outlier
    bars = []
    for place, entry in enumerate(entries):
        other = others[place]["seconds"] if place < len(others) else 0.0
        kind = "computed" if entry["computed"] else "reused"
        spent = f"{entry['seconds'] * 1000:.1f} ms; uncached {other * 1000:.1f} ms"
        hint = f"step {entry['step']}, sigma {entry['sigma']:.4f}: {kind} ({entry['reason']}), {spent}"
        behind, front = (min(100.0, 100 * seconds / tallest) for seconds in (other, entry["seconds"]))
        rects = f'<rect class="behind" x="{place * 10}" y="{100 - behind:.1f}" width="9" height="{behind:.1f}"/>'
        rects += f'<rect class="{kind}" x="{place * 10}" y="{100 - max(front, 2):.1f}" width="9" height="{max(front, 2):.1f}"/>'
        bars.append(
            f'<g><title>{escape(hint)}</title>{rects}<rect class="{kind}" x="{place * 10}" y="106" width="9" height="9" rx="1.5"/></g>'
        )
    drawing = f'<svg class="timeline" viewBox="0 0 {len(entries) * 10} 116" preserveAspectRatio="none" role="img">{"".join(bars)}</svg>'
    legend = '<i class="computed"></i>computed <i class="reused"></i>forecast <i class="behind"></i>the same step without Encore'
    return f'{drawing}<p class="legend">{legend}; height is time, noise at the left, picture at the right</p>'


def _table(measured: Sequence[Measured]) -> str:
    """All numbers."""
    head = (
        "model",
        "recipe",
        "steps",
        "computed",
        "uncached",
        "cached",
        "speedup",
        "MACs uncached",
        "MACs cached",
        "PSNR",
        "SSIM",
        "text",
        "VAE decode",
    )
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(one.row))}</tr>" for one in measured)
    repeats = len(measured[0].samples) if measured else 0
    return (
        f'<section><h2>Numbers</h2><div class="wide"><table><tr>{"".join(f"<th>{name}</th>" for name in head)}</tr>{body}</table></div>'
        f"<p class='gloss'>Seconds: the denoising loop only, median of {repeats} interleaved repetitions after a warm-up, each with a seed "
        "of its own; text encoder and one VAE decode beside them. PSNR and SSIM: mean over the pictures of all repetitions.</p></section>"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    macs = [NONE if row[key] is None else f"{row[key] / 1e12:.4g} T" for key in ("macs_uncached", "macs_cached")]
    seconds = [f"{row[key]:.2f} s" for key in ("uncached_s", "cached_s")]
    first = [Path(row["model"]).stem, str(row["recipe"]), str(row["steps"]), str(row["computed"])]
    return [
        *first,
        *seconds,
        f"{row['speedup']:.2f}{TIMES}",
        *macs,
        f"{row['psnr_db']:.1f} dB",
        f"{row['ssim']:.4f}",
        f"{row['text_s']:.3f} s",
        f"{row['vae_s']:.3f} s",
    ]
