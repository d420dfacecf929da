"""What is chosen for a device, and that it is set: no test depends on the processor it runs on."""

import logging

import pytest
import torch
from torch import nn

from mask_former import precision
from mask_former.engine.config import get_cfg
from mask_former.errors import UserError
from mask_former.precision import (
    inference_precision,
    memory_format,
    native_dtypes,
    prepare,
    training_precision,
)

BF16, FP16 = torch.bfloat16, torch.float16


def make_cfg(device="cpu", amp=True, **opts):
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED = device, amp
    for key, value in opts.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


@pytest.fixture
def native(monkeypatch):
    """Decide what devices compute natively."""

    def set_native(*dtypes):
        monkeypatch.setattr(precision, "native_dtypes", lambda device: frozenset(dtypes))

    return set_native


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), set()), ((7, 5), {FP16}), ((8, 0), {FP16, BF16})]
)
def test_a_gpu_is_judged_by_its_capability(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_dtypes("cuda:1") == expected


def test_apple_gpus_have_float16_and_what_is_unknown_has_neither():
    assert native_dtypes("mps") == {FP16}
    assert native_dtypes("meta") == set()


@pytest.mark.parametrize(
    ("machine", "onednn", "instructions", "expected"),
    [
        ("x86_64", True, True, True),
        ("x86_64", False, True, False),  # oneDNN is held to AVX2
        ("AMD64", True, False, False),  # AVX-512 of the years before bfloat16
        ("aarch64", True, False, True),
        ("aarch64", False, False, False),
    ],
)
def test_a_cpu_is_judged_by_its_instructions(monkeypatch, machine, onednn, instructions, expected):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions, raising=False)
    assert native_dtypes("cpu") == ({BF16} if expected else set())


def test_a_build_without_onednn_has_no_bfloat16(monkeypatch):
    monkeypatch.setattr(precision.torch.ops, "mkldnn", object())
    assert native_dtypes("cpu") == set()


@pytest.mark.parametrize(
    ("device", "natively", "training", "inference"),
    [
        ("cpu", (BF16,), BF16, BF16),
        ("cpu", (), None, None),
        ("cuda", (BF16, FP16), BF16, BF16),
        ("cuda", (FP16,), FP16, FP16),
        ("cuda", (), None, None),
        ("mps", (FP16,), None, FP16),  # no loss scaler there
    ],
)
def test_auto(native, device, natively, training, inference):
    native(*natively)
    cfg = make_cfg(device)  # auto is the default of both keys
    assert training_precision(cfg).dtype is training
    assert inference_precision(cfg).dtype is inference


def test_a_model_is_evaluated_in_what_it_learned_in_where_that_is_native(native):
    native(BF16, FP16)
    for name, expected in (("float16", FP16), ("bfloat16", BF16), ("float32", None)):
        assert inference_precision(make_cfg("cuda", SOLVER__AMP__DTYPE=name)).dtype is expected
    native(BF16)
    assert inference_precision(make_cfg("cpu", SOLVER__AMP__DTYPE="float16")).dtype is BF16


def test_without_mixed_precision_auto_is_float32(native):
    native(BF16, FP16)
    cfg = make_cfg("cuda", amp=False)
    assert training_precision(cfg).dtype is inference_precision(cfg).dtype is None
    # A precision that is named holds for inference all the same.
    cfg.TEST.PRECISION = "float16"
    assert inference_precision(cfg).dtype is FP16
    # And the one of trainings that are not in mixed precision is not looked at.
    cfg.SOLVER.AMP.DTYPE = "half"
    assert training_precision(cfg).dtype is None


@pytest.mark.parametrize(("name", "dtype"), [("float32", None), ("bfloat16", BF16)])
def test_a_name(native, name, dtype):
    native(BF16)
    cfg = make_cfg(SOLVER__AMP__DTYPE=name, TEST__PRECISION=name)
    assert training_precision(cfg).dtype is inference_precision(cfg).dtype is dtype


@pytest.mark.parametrize(
    ("device", "natively", "name", "instead"),
    [
        ("cpu", (), "bfloat16", "float32"),
        ("cpu", (BF16,), "float16", "bfloat16"),
        ("cuda", (FP16,), "bfloat16", "float16"),
    ],
)
def test_what_would_be_emulated_is_refused_with_the_way_out(
    native, device, natively, name, instead
):
    native(*natively)
    message = rf"{name}, which {device} would emulate.* auto, which is {instead} here"
    with pytest.raises(UserError, match=rf"SOLVER.AMP.DTYPE is {message}"):
        training_precision(make_cfg(device, SOLVER__AMP__DTYPE=name))
    with pytest.raises(UserError, match=rf"TEST.PRECISION is {message}"):
        inference_precision(make_cfg(device, amp=False, TEST__PRECISION=name))


def test_what_is_no_precision(native):
    native(BF16, FP16)
    message = "is 'half', but must be one of auto, float32, bfloat16, float16"
    with pytest.raises(UserError, match=f"SOLVER.AMP.DTYPE {message}"):
        training_precision(make_cfg(SOLVER__AMP__DTYPE="half"))
    with pytest.raises(UserError, match=f"TEST.PRECISION {message}"):
        inference_precision(make_cfg(TEST__PRECISION="half"))


@pytest.fixture
def settings():
    """PyTorch's settings for the whole process, restored afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    yield
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def channels_first_and_last(model):
    weight = model.weight
    return weight.is_contiguous(), weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("tf32", [False, True])
def test_settings_of_the_process(settings, training, tf32):
    prepare(make_cfg(MODEL__TF32=tf32, CUDNN_BENCHMARK=True), nn.Linear(1, 1), training=training)
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is tf32
    assert torch.backends.cudnn.benchmark is training


@pytest.mark.parametrize("training", [False, True])
def test_memory_format_that_is_named(settings, training):
    model = nn.Conv2d(2, 2, 3)
    for name, expected in (("channels_last", (False, True)), ("contiguous", (True, False))):
        prepare(make_cfg(MODEL__MEMORY_FORMAT=name), model, training=training)
        assert channels_first_and_last(model) == expected


@pytest.mark.parametrize(
    ("device", "capability", "training", "inference"),
    [
        ("cpu", "AVX2", "contiguous", "channels_last"),
        ("cpu", "AVX512", "channels_last", "channels_last"),
        ("cpu", "DEFAULT", "contiguous", "contiguous"),
        ("cuda", "AVX512", "contiguous", "contiguous"),
        ("mps", "DEFAULT", "contiguous", "contiguous"),
    ],
)
def test_memory_format_by_device_and_mode(monkeypatch, device, capability, training, inference):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    cfg = make_cfg(device)
    assert memory_format(cfg, training=True) == training
    assert memory_format(cfg, training=False) == inference


def test_what_is_no_memory_format():
    with pytest.raises(UserError, match="MODEL.MEMORY_FORMAT is 'NHWC'.*channels_last"):
        prepare(make_cfg(MODEL__MEMORY_FORMAT="NHWC"), nn.Linear(1, 1), training=True)


def test_one_line_says_what_was_chosen_and_why(settings, native, caplog):
    native()
    with caplog.at_level(logging.INFO, logger="mask_former"):
        found = prepare(make_cfg(), nn.Linear(1, 1), training=True)
    assert found.dtype is None and str(found) == "float32"
    (record,) = caplog.records
    assert (
        "Training on cpu: float32 (SOLVER.AMP.DTYPE auto: cpu has no native 16-bit type for it)"
        in (record.getMessage())
    )
