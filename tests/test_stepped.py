"""The tables of diffusers' scheduler objects: which are read, and that pred_x0 is the x_0 a network knows."""

import diffusers.schedulers
import numpy as np
import pytest
import torch

from traj.pipeline.process import stepped
from traj.stores import InputError

CLASSES = sorted(name for name in dir(diffusers.schedulers) if name.endswith("Scheduler"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers", "ignore::DeprecationWarning:numpy")
NEEDS_TORCHSDE = {"CosineDPMSolverMultistepScheduler", "DPMSolverSDEScheduler"}
OPTIONS = {
    "HeliosScheduler": {"stages": 1},
    "RFD4ProteinaScheduler": {
        "schedule_mode": "power",
        "noise_mode": "tan",
        "tsr_k": 1.0,
        "tsr_sigma": 1.0,
        "tail_steps": 0,
    },
}
"""What classes need that cannot be made, or recorded, as they are by default."""

VP = ("epsilon", "sample", "v_prediction")
KINDS = {
    **dict.fromkeys(("DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler"), VP),
    **dict.fromkeys(("DDIMParallelScheduler", "DDPMParallelScheduler"), VP),
    **dict.fromkeys(("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "LMSDiscreteScheduler"), VP),
    **dict.fromkeys(("EulerDiscreteScheduler", "HeunDiscreteScheduler"), VP),
    **dict.fromkeys(("EulerAncestralDiscreteScheduler", "PNDMScheduler"), ("epsilon", "v_prediction")),
    **dict.fromkeys(("KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"), ("epsilon", "v_prediction")),
    **dict.fromkeys(("DEISMultistepScheduler", "DPMSolverMultistepScheduler"), (*VP, "flow_prediction")),
    **dict.fromkeys(("DPMSolverSinglestepScheduler", "SASolverScheduler"), (*VP, "flow_prediction")),
    "UniPCMultistepScheduler": (*VP, "flow_prediction"),
    "UnCLIPScheduler": ("epsilon", "sample"),
    **dict.fromkeys(("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"), ("epsilon", "v_prediction")),
}
"""The prediction types that a class can be given; all others have one of their own."""

OWN = {
    "DDPMWuerstchenScheduler": "epsilon",
    "MiniMaxH3Scheduler": "clean_flow",
    "RFD4ProteinaScheduler": "clean_flow",
    "CMStochasticIterativeScheduler": "consistency",
}
NO_NOISING = {
    "ConsistencyDecoderScheduler",
    "FlowMatchHeunDiscreteScheduler",  # it has scale_noise, which fails
    "HeliosScheduler",
    "LTXEulerAncestralRFScheduler",
    "SCMScheduler",
}
"""Classes without a method that noises x_0; their own steps say whether they are read as they mean it."""

RECORDED = [(name, kind) for name in sorted(stepped.RECORDED) for kind in KINDS.get(name, (OWN.get(name, "flow"),))]


def made(name, kind=None, steps=6):
    """A scheduler of a class and a prediction type, about to take its steps."""
    if name in NEEDS_TORCHSDE:
        pytest.importorskip("torchsde")
    options = dict(OPTIONS.get(name, {}))
    if name in KINDS and kind:
        options["prediction_type"] = kind
        if kind == "flow_prediction":
            options["use_flow_sigmas"] = True
    scheduler = getattr(diffusers.schedulers, name)(**options)
    if name == "SCMScheduler":
        scheduler.set_timesteps(steps, intermediate_timesteps=None)
    else:
        scheduler.set_timesteps(2 if name == "ConsistencyDecoderScheduler" else steps)
    return scheduler


def output_of(scheduler, kind, x_0, eps, x_t, c, d):
    """What a network of a kind answers that knows x_0."""
    match kind:
        case "epsilon":
            return eps
        case "sample":
            return x_0
        case "v_prediction":
            return (c * eps - d * x_0) / np.hypot(c, d)
        case "clean_flow":
            return x_0 - eps
        case "consistency":
            c_skip, c_out = scheduler.get_scalings_for_boundary_condition(torch.tensor(d))
            return (x_0 - c_skip * x_t) / c_out
    return eps - x_0


def test_every_scheduler_of_diffusers_is_recorded_or_refused_for_a_reason():
    assert sorted([*stepped.RECORDED, *stepped.REFUSED]) == CLASSES


@pytest.mark.parametrize("name", sorted(stepped.REFUSED))
def test_others_are_refused_by_name_with_the_reason(name):
    scheduler = type(name, (), {})()
    with pytest.raises(InputError, match=f"{name} cannot be recorded: {stepped.REFUSED[name]}"):
        stepped.require_recorded(scheduler)


def test_a_scheduler_of_ones_own_is_refused():
    with pytest.raises(InputError, match="MyScheduler cannot be recorded: it is none of those of diffusers"):
        stepped.require_recorded(type("MyScheduler", (diffusers.DDIMScheduler,), {})())


def test_helios_with_stages_is_refused():
    with pytest.raises(InputError, match="HeliosScheduler cannot be recorded: it makes 3 stages"):
        stepped.require_recorded(diffusers.schedulers.HeliosScheduler())


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kind in RECORDED if name not in {*NO_NOISING, "IPNDMScheduler"}]
)
def test_pred_x0_is_the_x_0_that_the_network_knows(name, kind):
    scheduler = made(name, kind)
    steps = stepped.steps_of(scheduler)
    x_0, eps = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k in range(len(steps)):
        t = scheduler.timesteps[int(steps.call[k])].reshape(1).expand(2)
        c, d = steps.signal[k], steps.noise_scale[k]
        x_t = c * x_0 + d * eps
        noised = _noised(scheduler, x_0, eps, t)
        # SASolver noises by its training table, whatever its sigmas are
        assert (name, kind) == ("SASolverScheduler", "flow_prediction") or np.allclose(
            noised, x_t, atol=1e-5 * max(1, d)
        ), "the scheduler noises to another level"
        if hasattr(scheduler, "precondition_outputs"):
            output = eps
            expected = scheduler.precondition_outputs(x_t, eps, torch.tensor(d))
        else:
            output, expected = output_of(scheduler, kind, x_0, eps, x_t, c, d), x_0
        found = steps.pred_x0(k, x_t, output)
        assert torch.allclose(found.double(), expected, atol=1e-5 * max(1, d / c if c else 1, d))


def _noised(scheduler, x_0, eps, t):
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(x_0, eps, t)
    return scheduler.scale_noise(x_0, t, eps)


@pytest.mark.parametrize("name", sorted(NO_NOISING))
def test_steps_taken_with_a_known_x_0_end_in_it(name):
    scheduler = made(name)
    steps = stepped.steps_of(scheduler)
    x_0, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x_t = steps.signal[0] * x_0 + steps.noise_scale[0] * eps
    for k in range(len(scheduler.timesteps) if scheduler.order == 2 else len(steps)):
        at = (k + 1) // 2 if scheduler.order == 2 else k  # flow's second evaluation is at the next noise level
        output = (x_0 - steps.of_x_t[at] * x_t) / steps.of_output[at]
        x_t = scheduler.step(output.float(), scheduler.timesteps[k], x_t.float(), return_dict=False)[0]
        if name not in ("ConsistencyDecoderScheduler", "LTXEulerAncestralRFScheduler", "SCMScheduler"):  # no new noise
            c, d = [*zip(steps.signal, steps.noise_scale, strict=True), (1.0, 0.0)][min(at + 1, len(steps))]
            if scheduler.order == 1:
                assert torch.allclose(x_t, (c * x_0 + d * eps).float(), atol=2e-5)
    assert torch.allclose(x_t, x_0, atol=2e-5)


def test_ipndm_is_read_as_its_steps_are_taken():
    x_0, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = stepped.steps_of(made("IPNDMScheduler"))
    levels = torch.tensor([*zip(steps.signal, steps.noise_scale, strict=True), (1, 0)])
    for k in range(1, len(steps)):  # where no signal is left, it forgets what the network says
        scheduler = made("IPNDMScheduler")
        scheduler.set_begin_index(k)
        (c, d), (c_next, d_next) = levels[k], levels[k + 1]
        x_t, output = c * x_0 + d * eps, c * eps - d * x_0
        assert torch.allclose(stepped.steps_of(scheduler).pred_x0(0, x_t, output), x_0, atol=1e-5)
        stepped_to = scheduler.step(output, scheduler.timesteps[k], x_t).prev_sample
        assert torch.allclose(stepped_to, c_next * x_0 + d_next * eps, atol=1e-5)


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_of_two_evaluations_the_first_is_kept(name):
    steps = stepped.steps_of(made(name))
    assert steps.call.tolist() == [0, 2, 4, 6, 8, 10]
    assert (np.diff(steps.timestep) < 0).all()
    assert (np.diff(steps.noise_scale) < 0).all()


@pytest.mark.parametrize(("skip", "calls"), [(True, [0, 2, 3, 4, 5, 6]), (False, [0, 4, 8, 12, 13, 14])])
def test_the_trial_points_of_pndm_are_left_out(skip, calls):
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=skip)
    scheduler.set_timesteps(6)
    steps = stepped.steps_of(scheduler)
    assert steps.call.tolist() == calls
    x_0, eps = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x_t = steps.signal[0] * x_0 + steps.noise_scale[0] * eps
    for call, t in enumerate(scheduler.timesteps):
        if call in calls:  # the states kept are those that the table says
            k = calls.index(call)
            assert torch.allclose(
                x_t.double(), (steps.signal[k] * x_0 + steps.noise_scale[k] * eps).double(), atol=1e-4
            )
        x_t = scheduler.step(eps, t, x_t.float()).prev_sample


def test_pndm_begun_in_the_midst_is_refused():
    scheduler = made("PNDMScheduler")
    with pytest.raises(InputError, match="PNDMScheduler began in the midst"):
        stepped.steps_of(scheduler, 498.0)


def test_a_late_start_leaves_the_steps_before_out():
    scheduler = made("DDIMScheduler")
    assert stepped.steps_of(scheduler, 498.0).timestep.tolist() == [498, 332, 166, 0]
    assert stepped.steps_of(scheduler, 498.0).call.tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="given timestep 500"):
        stepped.steps_of(scheduler, 500.0)
    flow = made("FlowMatchEulerDiscreteScheduler")
    flow.set_begin_index(2)
    assert stepped.steps_of(flow).timestep.tolist() == [3, 2, 1, 0]


def test_timesteps_that_are_no_whole_numbers_count_down():
    steps = stepped.steps_of(made("EulerDiscreteScheduler"))
    assert steps.timestep.tolist() == [5, 4, 3, 2, 1, 0]
    assert np.allclose(steps.model_time, [999, 799.2, 599.4, 399.6, 199.8, 0], atol=1e-3)


def test_epsilon_without_signal_is_refused_and_v_is_not():
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = diffusers.DDIMScheduler(**options)
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match="zero terminal SNR"):
        stepped.steps_of(scheduler)
    scheduler = diffusers.DDIMScheduler(**options, prediction_type="v_prediction")
    scheduler.set_timesteps(4)
    assert stepped.steps_of(scheduler).signal[0] == 0


def test_a_learned_variance_is_left_out():
    steps = stepped.steps_of(made("DDPMScheduler", "sample"))
    x_t, output = torch.zeros(2, 3, 4, 4), torch.randn(2, 6, 4, 4)
    assert torch.equal(steps.pred_x0(0, x_t, output), output[:, :3])
    with pytest.raises(InputError, match=r"answers \(2, 5, 4, 4\) to a state of shape \(2, 3, 4, 4\)"):
        steps.pred_x0(0, x_t, torch.randn(2, 5, 4, 4))


def test_a_scheduler_before_its_timesteps_are_set_is_refused():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.timesteps = torch.empty(0)
    with pytest.raises(InputError, match="set_timesteps"):
        stepped.steps_of(scheduler)
