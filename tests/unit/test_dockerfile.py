"""The image has the versions that are pinned, and pins agree wherever they are written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]
DOCKERFILE = (REPO / "Dockerfile").read_text()
INSTALLS = re.findall(r"pip install (.*?)(?:\n| && |; )", DOCKERFILE.replace("\\\n", " "))


def pins(name: str) -> dict[str, str]:
    lines = (REPO / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


TRAINER, TRAINER_GPU = pins("constraints.txt"), pins("constraints-gpu.txt")
GYM = pins("constraints-reasoning-gym.txt")
GAMES = pins("constraints-openspiel.txt") | pins("constraints-textworld.txt")
SITE = pins("constraints-docs.txt")
SGLANG, SGLANG_GPU = pins("constraints-sglang.txt"), pins("constraints-sglang-gpu.txt")


def test_every_package_of_the_image_is_pinned_by_a_constraints_file():
    requirements = [line for line in INSTALLS if "-r " in line]
    assert [line.split("/tmp/")[1].strip() for line in requirements] == [
        "constraints-sglang-gpu.txt",
        "constraints-router.txt",
        "constraints.txt",
        "constraints-reasoning-gym.txt",
        "constraints-gpu.txt",
    ]
    for line in INSTALLS:  # The other is this package, from its sources.
        assert "--no-deps" in line
        assert "-r " in line or line.split()[-1] == "."
    assert "==" not in DOCKERFILE
    assert "apex" not in DOCKERFILE.lower()  # Nothing would use it.


def test_packages_of_gpus_do_not_change_those_that_cpus_have():
    assert not TRAINER.keys() & (TRAINER_GPU.keys() | GYM.keys() | GAMES.keys())
    for name in ("sglang", "torch", "torchvision", "transformers", "triton", "tokenizers"):
        assert SGLANG_GPU[name] == SGLANG[name], name


def test_trainers_and_servers_have_one_torch_and_one_transformers():
    for name in ("torch", "transformers", "triton", "cuda-toolkit", "nvidia-nccl-cu13"):
        assert TRAINER[name] == SGLANG_GPU[name], name


def test_pins_of_the_package_are_those_of_the_constraints():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    matches = (re.fullmatch(r"([\w.-]+?)(?:\[.*\])?==(.+)", r) for group in groups for r in group)
    exact = dict(match.groups() for match in matches if match)
    constrained = TRAINER | TRAINER_GPU | GYM | GAMES | SITE | {"sglang": SGLANG["sglang"]}
    assert exact == {name: constrained[name] for name in exact}
    assert exact.keys() >= {"torch", "megatron-core", "transformers", "transformer-engine"}


def test_cuda_and_python_of_the_image_are_those_of_torch_and_of_the_project():
    # Without a cuDNN: Transformer Engine would load it beside torch's.
    image = re.search(r"CUDA_IMAGE=nvidia/cuda:(\d+\.\d+)\.\d+-devel", DOCKERFILE)
    assert image is not None
    assert TRAINER["cuda-toolkit"].startswith(f"{image[1]}.")
    python = (REPO / ".python-version").read_text().strip()
    assert set(re.findall(r"python(3\.\d+)", DOCKERFILE)) == {python}


INSTALL = (REPO / "docs/install.md").read_text()


@pytest.mark.parametrize(
    ("text", "root"), [(DOCKERFILE, "${NVIDIA}"), (INSTALL, "$nvidia")], ids=["image", "docs"]
)
def test_transformer_engine_is_built_with_the_headers_of_torchs_own_libraries(text, root):
    """The toolkit has none of NCCL and cuDNN, and a system's would be of other versions."""
    commands = text.replace("\\\n", " ")
    headers = re.search(r"CPATH=(\S+)", commands)
    assert headers is not None
    assert headers[1].split(":") == [f"{root}/{name}/include" for name in ("nccl", "cudnn", "cu13")]
    build = re.search(r"MAX_JOBS=\S+ NVTE_FRAMEWORK=pytorch +(\S+/pip install .*)", commands)
    assert build is not None
    assert build.start() > headers.start()
    assert build[1].split()[2:5] == ["--no-deps", "--no-build-isolation", "-r"]
    assert build[1].strip().endswith("constraints-gpu.txt")


def test_those_headers_come_with_the_pinned_torch():
    import torch

    libraries = Path(torch.__file__).parents[1] / "nvidia"
    if torch.version.cuda is None:
        pytest.skip("this torch is built without CUDA")
    for header in ("nccl/include/nccl.h", "cudnn/include/cudnn.h", "cu13/include/cuda_runtime.h"):
        assert (libraries / header).exists(), header


def test_install_docs_name_what_the_image_has():
    for needed in ("ninja", "python3.12-dev"):
        assert needed in INSTALL
        assert needed in DOCKERFILE
    assert "driver of at least 580" in INSTALL


@pytest.mark.parametrize("nodes", ["16_nodes", "32_nodes"])
def test_examples_in_a_container_find_sglang_where_the_image_has_it(nodes):
    config = yaml.safe_load((REPO / f"examples/slurm/{nodes}.yaml").read_text())
    environment = Path(config["slurm"]["rollout"]["python"]).parents[1]
    assert f"python3.12 -m venv {environment} " in DOCKERFILE


def test_hadolint_has_nothing_to_say():
    program = shutil.which("hadolint", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("no hadolint in this environment: `make setup` installs it")
    done = subprocess.run(
        [program, "Dockerfile"], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""
