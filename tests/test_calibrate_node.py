"""Encore Calibrate: what tells models, LoRAs and conditions apart, what a calibration needs, and where it refuses."""

import json
from types import SimpleNamespace

import comfy.samplers
import comfy.weight_adapter
import host_models
import pytest
import torch
from pack.cache_core import CacheError, Schedule
from pack.cache_core.trace import Calibration, load, save
from pack.cache_core.trace.bands import LEVELS
from pack.demo.agreement import DEFAULTS, load_model
from pack.demo.models import WEIGHTS
from pack.nodes import calibrations
from pack.nodes import trace as trace_nodes
from pack.nodes.adapters import calibrate
from pack.nodes.adapters.calibrate import Sampling, bytes_needed, conditioning_digest, fingerprint, shelf_of
from pack.nodes.adapters.choice import Situation
from pack.nodes.automatic import own
from policy_runs import flow
from safetensors import safe_open
from safetensors.torch import save_file
from trace_runs import statistics

pytestmark = pytest.mark.host
LAYER = "diffusion_model.img_in.weight"


@pytest.fixture(scope="module")
def model():
    return host_models.make("flux")


def with_patch(model, patch, strength=0.5, key=LAYER):
    patched = model.clone()
    patched.add_patches({key: patch}, strength)
    return patched


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def adapter(seed, dtype=torch.float32):
    """A LoRA of rank 4 in the form that the host's loader makes."""
    up, down = (random(*shape, seed=seed + n).to(dtype) for n, shape in enumerate(((128, 4), (4, 64))))
    return comfy.weight_adapter.LoRAAdapter(set(), (up, down, 4.0, None, None, None))


def sampling(model, latent=None, **changed):
    told = {"positive": host_models.prompt(5, 11), "negative": host_models.prompt(5, 12)} | changed
    settings = {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    latent = torch.zeros(1, *host_models.LATENT["flux"]) if latent is None else latent
    return Sampling(model, latent={"samples": latent}, **settings | told)


class TestTheFingerprint:
    @pytest.mark.parametrize("family", ["flux", "wan"])
    def test_of_the_demo_models_is_that_of_the_calibrations_that_ship_and_so_are_their_steps(self, family):
        model, setting = load_model(WEIGHTS / f"demo-{family}.safetensors", DEFAULTS[family].shift), DEFAULTS[family]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), setting.scheduler, setting.steps)
        shape = (1, 16, 16, 16) if family == "flux" else (1, 16, 5, 16, 16)
        found, note = own(Situation(model, Schedule(tuple(sigmas.tolist())), "euler", setting.cfg, shape))
        assert found is not None, note
        assert found.name == f"demo-{family}"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
    def test_tells_two_loras_on_the_same_layers_at_one_strength_apart(self, model, dtype):
        first, again, second = (fingerprint(with_patch(model, adapter(seed, dtype))) for seed in (0, 0, 7))
        assert first == again
        assert first["patches"] != second["patches"]
        assert {key for key in first if first[key] != second[key]} == {"patches"}

    def test_tells_their_strength_too_and_knows_every_form_of_a_patch(self, model):
        one, other = torch.zeros(128, 64), torch.zeros(128, 64)
        other[-1, -1] = 1.0
        forms = [
            with_patch(model, adapter(0)),
            with_patch(model, adapter(0), 0.8),
            with_patch(model, ("diff", (one,))),
            with_patch(model, ("diff", (other,))),
            with_patch(model, (one,)),
            with_patch(model, ("lora", (random(128, 4), random(4, 64, seed=1), 4.0, None, None, None))),
            with_patch(model, ("set", (torch.tensor(1.0),))),
            with_patch(model, ("set", (torch.tensor(2.0),))),
            with_patch(model, ("set", (torch.zeros(0, 4),))),
            with_patch(model, ("diff", (one,)), key=(LAYER, (0, 0, 64))),
            with_patch(model, ("diff", (one,)), key=(LAYER, (0, 64, 64))),
            model,
        ]
        assert len({fingerprint(form)["patches"] for form in forms}) == len(forms)

    def test_copies_nothing_large(self, model, monkeypatch):
        counts, moved = [], torch.Tensor.tolist

        def tolist(tensor):
            counts.append(tensor.numel())
            return moved(tensor)

        monkeypatch.setattr(torch.Tensor, "tolist", tolist)
        fingerprint(with_patch(model, adapter(0)))
        assert max(counts) <= 8


class TestWhatIsSampledAgain:
    @pytest.mark.parametrize(
        "change",
        [
            {"guidance": 2.0},
            {"pooled_output": torch.zeros(1, 32)},
            {"reference_latents": [torch.ones(1, 16, 4, 4)]},
            {"hint": "other"},
            {"area": (4, 4, 0, 0)},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_changed_option_of_a_condition_is_another_condition(self, model, change, tmp_path):
        (text, options), (_, again) = host_models.prompt(5, 11)[0], host_models.prompt(5, 11)[0]
        first, same = conditioning_digest([text, options]), conditioning_digest([text, dict(reversed(again.items()))])
        assert first == same
        other = [text, options | change]
        assert conditioning_digest(other) != first
        keys = [shelf_of(sampling(model, positive=[entry]), 0, tmp_path).key for entry in ([text, options], other)]
        assert keys[0] != keys[1]

    def test_other_noise_levels_are_another_sampling(self, model, tmp_path):
        levels = torch.linspace(1.0, 0.0, 9)
        keys = {shelf_of(sampling(model, sigmas=sigmas), 0, tmp_path).key for sigmas in (None, levels, levels**2, levels.clone())}
        assert len(keys) == 3

    def test_one_number_of_a_tensor_is_enough_and_objects_do_not_differ(self):
        text, pooled = random(1, 5, 64), random(1, 32)
        changed = pooled.clone()
        changed[0, 18] += 1e-3
        assert conditioning_digest([text, {"pooled_output": pooled}]) != conditioning_digest([text, {"pooled_output": changed}])
        assert conditioning_digest([text, {"control": object()}]) == conditioning_digest([text, {"control": object()}])

    def test_an_empty_latent_of_few_channels_counts_as_those_of_the_model(self, model):
        four, sixteen = torch.zeros(1, 4, 8, 8), torch.zeros(1, 16, 8, 8)
        assert bytes_needed(sampling(model, four), 3) == bytes_needed(sampling(model, sixteen), 3) == 2 * 9 * 3 * 16 * 8 * 8


class TestTheNode:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(calibrations, "OWN", tmp_path)
        return tmp_path

    def made(self, model, **settings):
        told = {"positive": host_models.prompt(5, 11), "negative": host_models.prompt(5, 12)}
        latent = {"samples": torch.zeros(1, *host_models.LATENT["flux"])}
        given = {"steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "speeds": "", "trajectories": 1}
        return trace_nodes.EncoreCalibrate.execute(model, latent_image=latent, seed=3, name="mine", **told, **given | settings)

    def test_its_text_says_where_speeds_were_not_rehearsed(self, model, folder):
        (text,) = self.made(model, sampler_name="heun", speeds="1.4").ui["text"]
        assert "no speed was rehearsed, since how the sampler heun steps is not known" in text
        assert load(folder / "mine.safetensors").plans == ()
        (text,) = self.made(model, sampler_name="heun").ui["text"]
        assert "rehearsed" not in text
        self.made(model, sampler_name="uni_pc", speeds="1.4")
        assert [known.solver for known in load(folder / "mine.safetensors").plans] == ["uni_pc"]

    def test_after_so_many_minutes_no_better_masks_are_searched_and_all_speeds_have_one(self, model, folder, monkeypatch):
        tries, now = [], [0.0]

        def clock():
            now[0] += 10.0
            return now[0]

        monkeypatch.setattr(calibrate, "time", SimpleNamespace(monotonic=clock))
        monkeypatch.setattr(Sampling, "check", staticmethod(lambda: tries.append(1)))
        self.made(model, steps=16, minutes=1.0)
        masks = load(folder / "mine.safetensors").masks
        assert [len(mask.sigmas) for mask in masks] == [5, 6, 7, 10]
        assert len(tries) == 16 + 6 + len(masks)  # the sampling's steps, six tries in a minute, and in each search the one that ends it

    def test_noise_levels_and_a_sampler_come_before_their_names(self, model, folder):
        sigmas = torch.linspace(1.0, 0.0, 10) ** 1.2
        self.made(model, steps=20, sigmas=sigmas, sampler=comfy.samplers.sampler_object("dpmpp_2m"), speeds="2")
        found = load(folder / "mine.safetensors")
        assert found.statistics.sigmas == pytest.approx(sigmas[:-1].tolist(), rel=1e-4)
        assert (found.statistics.end, found.about["sampler"]) == (0.0, "dpmpp_2m")
        assert [known.solver for known in found.plans] == ["dpmpp_2m"]
        self.made(model, sigmas=sigmas[:-1], speeds="2")
        found = load(folder / "mine.safetensors")
        assert (found.statistics.end, found.about["sampler"]) == (pytest.approx(float(sigmas[-2]), rel=1e-4), "euler")
        assert [len(known.sigmas) for known in found.plans] == [9]

    def test_by_names_or_by_what_they_stand_for_the_trajectories_are_the_same(self, model, folder):
        self.made(model)
        named = load(folder / "mine.safetensors").statistics
        levels = comfy.samplers.KSampler(model, 8, model.load_device, "euler", "simple").sigmas
        for given in ({"sigmas": levels}, {"sampler": comfy.samplers.sampler_object("euler")}):
            self.made(model, **given)
            assert (load(folder / "mine.safetensors").statistics.gram == named.gram).all()
        self.made(model, sampler=comfy.samplers.ksampler("euler", {"s_churn": 4.0}))  # the options of a sampler count
        assert not (load(folder / "mine.safetensors").statistics.gram == named.gram).all()

    def test_an_euler_with_options_is_not_rehearsed(self, model, folder):
        for options, plans in (({}, 1), ({"s_churn": 1.0}, 0)):
            self.made(model, sampler=comfy.samplers.ksampler("euler", options), speeds="1.4")
            assert len(load(folder / "mine.safetensors").plans) == plans

    def test_too_few_noise_levels_are_refused(self, model, folder):
        with pytest.raises(CacheError, match="takes 9 noise levels or more, and these sigmas are 5"):
            self.made(model, sigmas=torch.linspace(1.0, 0.0, 5))

    def test_noise_levels_that_start_late_are_refused(self, model, folder):
        with pytest.raises(CacheError, match=r"from pure noise, at 1, and these sigmas start at 0\.6"):
            self.made(model, sigmas=torch.linspace(0.6, 0.0, 10))

    def test_its_text_tells_the_error_of_samplings_that_were_held_out(self, model, folder):
        (text,) = self.made(model, speeds="2", trajectories=4).ui["text"]
        held_out = load(folder / "mine.safetensors").plans[0].plan.held_out
        assert f"({held_out:.4f} of samplings that were held out)" in text
        assert "held out" not in self.made(model, speeds="2").ui["text"][0]

    @pytest.mark.parametrize("name", ["EasyCacheNode", "LazyCacheNode"])
    def test_it_refuses_a_model_with_another_cache_and_names_it(self, model, folder, name):
        import comfy_extras.nodes_easycache as rivals

        (rival,) = getattr(rivals, name).execute(model, 0.2, 0.0, 1.0, False).result
        with pytest.raises(CacheError, match=r"Another cache is on this model \(easycache\).*Remove EasyCache"):
            self.made(rival)
        assert list(folder.iterdir()) == []


class TestADamagedHeader:
    @pytest.fixture
    def header(self, tmp_path):
        """Write a calibration whose header was changed."""
        path = tmp_path / "own" / "mine.safetensors"
        save(Calibration("mine", statistics(flow(8), LEVELS), (), {"cfg": 3.0, "size": [8, 8]}), path)
        with safe_open(path, "pt") as file:
            found, gram = json.loads(file.metadata()["encore"]), file.get_tensor("gram")

        def write(change):
            save_file({"gram": gram}, path, {"encore": json.dumps(change(found))})
            return path

        return write

    def test_plans_of_older_files_know_no_alarm_and_held_nothing_out(self, header):
        plan = {"sigmas": [1.0, 0.0], "computed": [0], "steps": {}, "levels": [], "error": 0.1, "exams": {}}
        (known,) = load(header(lambda found: found | {"plans": [plan]})).plans
        assert (known.plan.alarm, known.plan.held_out) == (0.0, None)

    def test_as_it_was_it_is_read(self, header):
        assert load(header(dict)).about == {"cfg": 3.0, "size": [8, 8]}

    @pytest.mark.parametrize("field", ["name", "sigmas", "end", "levels", "trajectories", "masks", "plans", "about"])
    def test_a_missing_field_is_told(self, header, field):
        path = header(lambda found: {key: value for key, value in found.items() if key != field})
        with pytest.raises(CacheError, match=rf"mine.safetensors is damaged: its header.*{field}.*calibrate again"):
            load(path)

    @pytest.mark.parametrize(
        "change",
        [
            {"sigmas": 3}, {"sigmas": ["a"] * 8}, {"end": None}, {"levels": 2}, {"levels": [[]]}, {"trajectories": "many"},
            {"masks": [{"sigmas": [1.0]}]}, {"masks": [3]}, {"plans": [{"sigmas": [1.0]}]}, {"about": 5}, {"about": {"cfg": "high"}},
            {"about": {"size": 5}},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_wrong_field_is_told_and_spoils_no_sampling(self, header, change, tmp_path, monkeypatch, caplog, model):
        path = header(lambda found: found | change)
        with pytest.raises(CacheError, match="damaged: its header"):
            load(path)
        monkeypatch.setattr(calibrations, "OWN", path.parent)
        assert "mine" not in [found.name for found in calibrations.readable()]
        assert "[Encore] mine.safetensors is damaged" in caplog.text
        assert own(Situation(model, flow(8), "euler", 1.0, (1, 16, 8, 8)))[0] is None

    @pytest.mark.parametrize("value", [[], 3, "text", [1]])
    def test_a_header_that_is_no_table_is_told(self, header, value):
        with pytest.raises(CacheError, match="damaged: its header"):
            load(header(lambda found: value))
