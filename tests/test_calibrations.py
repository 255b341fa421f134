"""Where calibrations lie: which names are offered, which file a name stands for, and what a new one may be called."""

import os

import pytest
from pack.cache_core import CacheError
from pack.cache_core.trace import Calibration, save, universal
from pack.nodes import calibrations
from policy_runs import flow
from trace_runs import statistics

pytestmark = pytest.mark.host


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrations, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrations, "OWN", tmp_path / "own")
    return tmp_path / "own"


def keep(folder, name, told=""):
    path = folder / f"{name}.safetensors"
    save(Calibration(name, statistics(flow(8)), (), {"told": told}), path)
    return path


def test_the_universal_one_comes_first_and_files_of_another_kind_are_no_names(own, shipped):
    for folder, name in ((own, "b"), (own, "shared"), (own, "a"), (shipped, "shared"), (shipped, "demo")):
        keep(folder, name)
    (own / "notes.txt").write_text("nothing of the kind")
    assert calibrations.names() == ["universal", "demo", "shared", "a", "b"]


def test_without_any_file_the_universal_one_is_there(own, shipped):
    assert calibrations.names() == ["universal"]
    assert calibrations.find("universal") is universal()
    assert calibrations.readable() == []


def test_those_of_the_demo_models_come_with_the_pack(own):
    assert calibrations.names() == ["universal", "demo-flux", "demo-wan"]
    assert calibrations.find("demo-flux").name == "demo-flux"


def test_the_users_own_is_taken_before_the_packs(own, shipped):
    keep(shipped, "shared", "the pack's")
    assert calibrations.find("shared").about["told"] == "the pack's"
    keep(own, "shared", "mine")
    assert calibrations.find("shared").about["told"] == "mine"


def test_a_file_is_read_once_and_anew_when_it_was_replaced(own, shipped):
    path = keep(own, "mine", "first")
    first = calibrations.find("mine")
    assert calibrations.find("mine") is first
    keep(own, "mine", "second")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))
    assert calibrations.find("mine").about["told"] == "second"


def test_a_name_without_a_file_is_refused_in_words(own, shipped):
    with pytest.raises(CacheError, match=r"no calibration at lost\.safetensors"):
        calibrations.find("lost")


def test_the_log_names_the_ones_that_cannot_be_read(own, shipped, caplog):
    keep(own, "good")
    (own / "broken.safetensors").write_bytes(b"nothing of the kind")
    assert [found.name for found in calibrations.readable()] == ["good"]
    assert "[Encore] broken.safetensors is damaged" in caplog.text


@pytest.mark.parametrize("name", ["", "  ", "universal", "folder/mine", "folder/", "../mine", ".mine"])
def test_a_name_that_is_no_file_name_or_is_taken_is_refused(own, name):
    with pytest.raises(CacheError, match="cannot be called"):
        calibrations.place_for(name)


def test_a_new_one_goes_to_the_users_folder_and_its_unfinished_work_beside_it(own, shipped):
    assert calibrations.place_for("my-model") == own / "my-model.safetensors"
    assert calibrations.workplace("my-model") == own / "my-model.unfinished"
    keep(calibrations.workplace("my-model"), "0")
    assert calibrations.names() == ["universal"]
