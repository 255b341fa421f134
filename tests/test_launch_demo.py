"""The demo's page and table say what was measured, and the page needs nothing beside it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pack.launch import demo
from pack.launch.client import Result
from pack.launch.measure import Measured, Sample, _row, _with_seed, sampler_steps
from PIL import Image

PROMPT: dict[str, Any] = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "demo-flux.safetensors"}},
    "2": {"class_type": "KSampler", "inputs": {"seed": 12, "steps": 4}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 12, "steps": 4}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {}},
    "5": {"class_type": "VAEDecode", "inputs": {}},
}


def ledger(seconds: float, macs: int | None, computed: list[bool]) -> dict[str, Any]:
    entries = [{"step": n, "sigma": 1 - n / 4, "computed": c, "reason": "<mask>", "seconds": seconds / 4} for n, c in enumerate(computed)]
    return {
        "recipe": "mask",
        "steps": 4,
        "computed": sum(computed),
        "seconds": seconds,
        "macs": macs,
        "notes": ["a & b"],
        "entries": entries,
    }


def sample(folder: Path, seed: int, uncached_s: float, cached_s: float) -> Sample:
    """One repetition whose cached picture is off by one grey level everywhere."""
    files = {}
    for branch, level in (("uncached", 100), ("cached", 101)):
        files[branch] = [folder / f"{branch}_{seed}.png"]
        Image.fromarray(np.full((16, 16, 3), level, np.uint8)).save(files[branch][0])
    result = Result({}, {"5": 0.1 * seed})
    return Sample(seed, result, ledger(cached_s, 50, [True, False, True, False]), ledger(uncached_s, 100, [True] * 4), files)


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    samples = [sample(tmp_path, seed, *seconds) for seed, seconds in ((1, (4.0, 2.0)), (2, (9.0, 3.0)), (3, (5.0, 1.0)))]
    row = _row("demo_flux_before_after", PROMPT, Result({}, {"4": 0.5}), samples)
    return Measured("demo_flux_before_after", row, samples)


def test_seconds_are_medians_and_ratios_come_from_them(measured: Measured) -> None:
    row = measured.row
    assert (row["uncached_s"], row["cached_s"], row["speedup"]) == (5.0, 2.0, 2.5)
    assert (row["macs_uncached"], row["macs_cached"], row["macs_reduction"]) == (100, 50, 2.0)
    assert (row["steps"], row["computed"], row["model"]) == (4, 2, "demo-flux.safetensors")
    assert (row["text_s"], row["vae_s"]) == (0.5, pytest.approx(0.2))
    assert row["psnr_db"] == pytest.approx(48.13, abs=0.01)  # 20 log10(255)


def test_both_branches_get_the_same_seed_and_the_prompt_stays_as_it_was() -> None:
    seeded = _with_seed(PROMPT, 99)
    assert [seeded[number]["inputs"]["seed"] for number in "23"] == [99, 99]
    assert [PROMPT[number]["inputs"]["seed"] for number in "23"] == [12, 12]
    assert sampler_steps(PROMPT) == 8


def test_the_folder_holds_the_page_the_numbers_and_the_pictures_of_the_first_seed(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "DEMO", tmp_path / "demo")
    demo._write([measured], {"torch": "2"}, tmp_path / "out.json")
    names = {"report.html", "report.json", "flux_uncached_01.png", "flux_cached_01.png"}
    assert {file.name for file in (tmp_path / "demo").iterdir()} == names
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == json.loads((tmp_path / "demo" / "report.json").read_text())
    assert written["host"] == {"torch": "2"}
    assert set(written["runs"][0]["pictures"]) == names - {"report.html", "report.json"}


def test_the_page_needs_nothing_beside_it_and_escapes_what_it_shows(measured: Measured) -> None:
    page = demo.page([measured], {"device": "<cpu>"})
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "http" not in page
    assert "&lt;mask&gt;" in page
    assert "<cpu>" not in page
    assert "a &amp; b" in page


def test_macs_that_were_not_counted_are_said_to_be_so(measured: Measured) -> None:
    measured.row.update(macs_reduction=None, macs_cached=None, macs_uncached=None)
    assert "not counted" in demo.table([measured.row])
    assert demo.page([measured], {})


def test_the_table_has_a_line_for_each_model(measured: Measured) -> None:
    lines = demo.table([measured.row, measured.row]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert "2.50x" in lines[1]
