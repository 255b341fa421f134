"""`bench code`, so small that only its form and its arithmetic are worth a look."""

import json

import pytest
from pack.bench import code, output, run

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "code.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "TOGETHER", 4)
        patch.setattr(code, "FRESH", 16)
        patch.setattr(code, "DRAWS", 20)
        code.fresh.cache_clear()
        assert run.bench("code", [], run.size(True, prompts=2, rounds=2), "./encore bench code --quick", run.Files(file)) == 0
    code.fresh.cache_clear()
    return json.loads(file.read_text())


def test_every_way_to_sample_has_a_row(written):
    settings = [row["setting"] for row in written["rows"]]
    assert settings[:2] == ["drafter alone", "refiner alone"]
    assert [text for text in settings if "training-free" in text] == [f"N = {n}, training-free" for n in (6, 5, 4, 3)]
    assert [text for text in settings if "specialised" in text] == [f"N = {n}, specialised at 5" for n in (5, 4, 3)]
    assert {"demo-drafter", "demo-refiner_5", "demo-vqvae"} <= set(written["environment"]["weights_sha256"])


def test_the_drafter_alone_is_what_all_are_compared_with(written):
    drafter = written["rows"][0]
    assert (drafter["speedup"], drafter["memory_saved"], drafter["frechet_change"]) == (1.0, 0.0, 0.0)
    assert all(row["memory_saved"] == pytest.approx(1 - row["peak_bytes"] / drafter["peak_bytes"]) for row in written["rows"])
    assert (drafter["frechet_change_ci"], drafter["agreement_change_ci"]) in (([0.0, 0.0], [0.0, 0.0]), ([0.0, 0.0], None))
    assert all(row["frechet_change_ci"][0] < row["frechet_change_ci"][1] for row in written["rows"][1:])
    assert all(row["speedup"] == pytest.approx(drafter["seconds"] / row["seconds"]) for row in written["rows"])


def test_memory_is_that_of_the_models_that_lie_there_and_their_keys(written):
    by_name = {row["setting"]: row for row in written["rows"]}
    tokens, kept = [1, 5, 14, 30, 55, 91, 155], 2 * 2 * 4 * 4  # keys and values, both prompts, pictures, bytes
    assert by_name["drafter alone"]["kv_bytes"] == kept * 5 * 192 * tokens[-1]
    assert by_name["refiner alone"]["kv_bytes"] == kept * 3 * 64 * tokens[-1]
    assert by_name["N = 5, training-free"]["kv_bytes"] == kept * max(5 * 192 * tokens[4], 3 * 64 * tokens[6])


def test_the_table_has_a_line_for_each(written):
    lines = output.table(code.COLUMNS, written["rows"]).splitlines()
    assert len(lines) == 1 + len(written["rows"])
    assert "Frechet" in lines[0]
