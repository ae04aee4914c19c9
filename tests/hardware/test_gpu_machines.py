"""GPUs of whole machines, written by hand in tests/data/hardware, read by the code that reads real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from support import gpu_machine

from edgellm import explain
from edgellm.hardware import gpu_table
from edgellm.types.gpu_problem import GpuProblem, GpuProblemKind
from edgellm.types.machine import Accelerator
from edgellm.units import GIB, MIB

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the machines are Linux"),
    pytest.mark.skipif(gpu_machine.COMPILER is None, reason="no C compiler for the stub of NVIDIA's library"),
]

H100_40 = Accelerator(
    "cuda", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 40448 * MIB, 40400 * MIB, 1662.5, slot="0000:01:00.0"
)
CARD_3060 = Accelerator(
    "cuda", "NVIDIA GeForce RTX 3060", 12288 * MIB, 11700 * MIB, 360.0, display=False, slot="0000:01:00.0"
)
CARD_4090 = Accelerator(
    "cuda", "NVIDIA GeForce RTX 4090", 24564 * MIB, 22000 * MIB, 1008.1, display=True, slot="0000:02:00.0"
)
MACHINES: dict[str, tuple[list[Accelerator], list[GpuProblem]]] = {
    "gpu-amd-discrete": (
        [Accelerator("rocm", "Radeon RX 7900 XTX", 25753026560, 25753026560 - 1294123008, 960.0, display=True,
                     slot="0000:03:00.0")],
        [GpuProblem("small_bar", "Radeon RX 7900 XTX", detail="256 MiB", vendor="amd"),
         GpuProblem("no_vulkan_driver", "Radeon RX 7900 XTX", vendor="amd")],
    ),
    "gpu-amd-apu": (  # firmware's part and the 32 GiB that the kernel lets a driver map, of the 56 that amdgpu would
        [Accelerator("vulkan", "AMD Radeon 780M", 32 * GIB + 512 * MIB, 32 * GIB + 512 * MIB - 700000000, None, True,
                     display=True, slot="0000:c1:00.0")],
        [GpuProblem("no_vulkan_driver", "AMD Radeon 780M", vendor="amd")],
    ),
    "gpu-intel-i915": (
        [Accelerator("xe", "Arc A770", 16 * GIB, None, 560.0, slot="0000:03:00.0")],
        [GpuProblem("memory_from_bar", "Arc A770", vendor="intel")],
    ),
    "gpu-intel-xe": (
        [Accelerator("xe", "Arc B580", 12809404416, None, 456.0, display=False, slot="0000:03:00.0")],
        [GpuProblem("free_not_told", "Arc B580", driver="xe", vendor="intel")],
    ),
    "gpu-nvidia-two": ([CARD_3060, CARD_4090], []),
    "gpu-nvidia-mig": ([H100_40], [GpuProblem("mig_one", "NVIDIA H100 80GB HBM3 MIG 1g.10gb")]),
    "gpu-nvidia-gb10": ([Accelerator("cuda", "NVIDIA GB10", unified=True, display=False, slot="0000:01:00.0")], []),
    "gpu-nvidia-jetson": ([Accelerator("cuda", "NVIDIA Jetson AGX Orin Developer Kit", unified=True)], []),
    "gpu-wsl": (
        [Accelerator("cuda", "NVIDIA GeForce RTX 4070 Laptop GPU", 8188 * MIB, 7000 * MIB, 256.0, display=True,
                     slot="0000:01:00.0")], [],
    ),
    "gpu-container-no-group": (
        [Accelerator("vulkan", "Radeon RX 7900 XT", 21458059264, 21358059264, 800.0, usable=False,
                     slot="0000:03:00.0")],
        [GpuProblem("node_closed", "Radeon RX 7900 XT", "/dev/dri/renderD128", group=105, container=True)],
    ),
    "gpu-container-no-devices": (
        [Accelerator("xe", "Iris Xe 96EU (Tiger/Alder/Raptor Lake-P)", 12288000000, unified=True, usable=False,
                     slot="0000:00:02.0")],
        [GpuProblem("node_missing", "Iris Xe 96EU (Tiger/Alder/Raptor Lake-P)", "/dev/dri/renderD128", container=True)],
    ),
    "gpu-container-no-runtime": (
        [Accelerator("cuda", "NVIDIA GeForce RTX 3090", usable=False)],
        [GpuProblem("node_missing", path="/dev/nvidiactl", vendor="nvidia", container=True)],
    ),
    "gpu-nvidia-mismatch": (
        [Accelerator("cuda", "NVIDIA GeForce RTX 4090", usable=False)],
        [GpuProblem("driver_mismatch", detail="RM has detected an NVML/RM version mismatch.", driver="550.54.14",
                    library="560.35.03")],
    ),
    "gpu-no-driver": (
        [
            Accelerator("cuda", "GeForce RTX 3060", None, None, 360.0, usable=False, slot="0000:01:00.0"),
            Accelerator("cuda", "GeForce RTX 4090", None, None, 1008.0, usable=False, slot="0000:02:00.0"),
            Accelerator("xe", "Arc A380", None, None, 186.0, usable=False, slot="0000:03:00.0"),
        ],
        [
            GpuProblem("nouveau", "GeForce RTX 3060", driver="nouveau", vendor="nvidia"),
            GpuProblem("reserved", "GeForce RTX 4090", driver="vfio-pci", vendor="nvidia"),
            GpuProblem("no_driver", "Arc A380", vendor="intel"),
        ],
    ),
}  # fmt: skip
GROUPS = {
    "gpu-amd-discrete": ["rdna3"],
    "gpu-amd-apu": ["rdna3-apu"],
    "gpu-intel-i915": ["alchemist"],
    "gpu-intel-xe": ["battlemage"],
    "gpu-nvidia-two": ["ampere", "ada"],
    "gpu-nvidia-mig": ["hopper"],
    "gpu-nvidia-gb10": ["blackwell-gb10"],
    "gpu-nvidia-jetson": ["jetson-orin"],
    "gpu-wsl": ["ada"],
    "gpu-container-no-group": ["rdna3"],
    "gpu-container-no-devices": ["xe-lp"],
    "gpu-container-no-runtime": ["ampere"],
    "gpu-nvidia-mismatch": ["ada"],
    "gpu-no-driver": ["ampere", "ada", "alchemist"],
}


@pytest.mark.parametrize("name", MACHINES)
def test_every_gpu_and_every_problem_of_a_machine(machine_at: Callable[..., Path], name: str) -> None:
    root = machine_at(name)
    gpus, problems = MACHINES[name]

    machine = gpu_machine.probed(root)

    closed = root / "dev/dri/renderD128"  # whose group only root can give it
    expected = [
        problem if problem.group is None else replace(problem, group=closed.stat().st_gid) for problem in problems
    ]
    assert list(machine.accelerators) == [_in_steps(gpu) for gpu in gpus]
    assert list(machine.gpu_problems) == expected
    facts = [gpu_table.find(gpu, machine.memory.total_bytes) for gpu in machine.accelerators]
    assert [gpu and gpu.group for gpu in facts] == GROUPS[name]
    # What has no memory of its own has the machine's.
    assert all(gpu.vram_bytes or gpu.unified or not gpu.usable for gpu in machine.accelerators)
    assert machine.memory.available_bytes


def _in_steps(gpu: Accelerator) -> Accelerator:
    """As the probe rounds free memory, so that a few MiB change no plan."""
    if gpu.vram_bytes is None or gpu.free_bytes is None:
        return gpu
    step = gpu.vram_bytes // 64
    return replace(gpu, free_bytes=gpu.free_bytes // step * step)


def _alone(tmp_path: Path, nvml: str, **files: str) -> Path:
    """A machine with NVIDIA's driver, and `nvml` as its library's script."""
    return gpu_machine.unpack({"/dev/nvidiactl": "open\n", "/nvml": nvml, **files}, tmp_path / "alone")


def _kinds(root: Path, **variables: str) -> tuple[list[str], list[str]]:
    gpus, problems = gpu_machine.gpus(root, **variables)
    return [gpu.name for gpu in gpus], [problem.kind for problem in problems]


@pytest.mark.parametrize(
    ("variables", "names", "kinds"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, [], ["hidden", "hidden"]),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, [], ["hidden", "hidden"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-2222"}, ["4090"], ["hidden"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, [], ["hidden", "hidden"]),  # of both, so of none
        ({"CUDA_VISIBLE_DEVICES": "GPU-22222222-bbbb,GPU-1"}, ["4090", "3060"], []),
        # Its own order: the fastest first. By the bus, when it is asked for.
        ({"CUDA_VISIBLE_DEVICES": "0"}, ["4090"], ["order_guessed", "hidden"]),
        ({"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["3060"], ["hidden"]),
        # What follows the first name that is none is not read.
        ({"CUDA_VISIBLE_DEVICES": "1,7,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, ["4090"], ["hidden"]),
        ({"HIP_VISIBLE_DEVICES": ""}, ["3060", "4090"], []),
    ],
)
def test_cudas_variable_hides_and_orders(
    machine_at: Callable[..., Path], variables: dict[str, str], names: list[str], kinds: list[str]
) -> None:
    shown, problems = _kinds(machine_at("gpu-nvidia-two"), **variables)

    assert ([name.removeprefix("NVIDIA GeForce RTX ") for name in shown], problems) == (names, kinds)


def test_an_instance_of_a_divided_gpu_is_chosen_by_its_name(machine_at: Callable[..., Path]) -> None:
    gpus, problems = gpu_machine.gpus(machine_at("gpu-nvidia-mig"), CUDA_VISIBLE_DEVICES="MIG-bbbb0000")

    assert [gpu.name for gpu in gpus] == ["NVIDIA H100 80GB HBM3 MIG 1g.10gb"]
    assert problems == (GpuProblem("mig_one", "NVIDIA H100 80GB HBM3 MIG 3g.40gb"),)


@pytest.mark.parametrize(
    ("variables", "hidden_by"),
    [
        ({"ROCR_VISIBLE_DEVICES": "GPU-1a2b3c4d5e6f7788"}, None),
        ({"ROCR_VISIBLE_DEVICES": "GPU-ffff"}, "ROCR_VISIBLE_DEVICES"),
        ({"HIP_VISIBLE_DEVICES": "0"}, None),
        ({"HIP_VISIBLE_DEVICES": "1"}, "HIP_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES"),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": ""}, None),
    ],
)
def test_rocms_variables_hide(
    machine_at: Callable[..., Path], variables: dict[str, str], hidden_by: str | None
) -> None:
    gpus, problems = gpu_machine.gpus(machine_at("gpu-amd-discrete"), **variables)

    assert [problem.path for problem in problems if problem.kind == "hidden"] == ([hidden_by] if hidden_by else [])
    assert len(gpus) == (0 if hidden_by else 1)


def test_vulkans_numbers_are_not_guessed(machine_at: Callable[..., Path]) -> None:
    root = machine_at("gpu-intel-xe")

    assert _kinds(root, GGML_VK_VISIBLE_DEVICES="")[1] == ["free_not_told", "numbers_of_vulkan"]
    assert _kinds(root, GGML_VK_VISIBLE_DEVICES="0")[1] == ["free_not_told"]
    assert _kinds(root, VK_DRIVER_FILES="/etc/lvp_icd.json")[1] == ["free_not_told", "no_vulkan_driver"]
    assert _kinds(root, VK_DRIVER_FILES="/etc/lvp_icd.json:/etc/intel_icd.json")[1] == ["free_not_told"]


@pytest.mark.parametrize("file", ["opt/rocm/lib/libamdhip64.so", "usr/share/vulkan/icd.d/radeon_icd.x86_64.json"])
def test_rocm_or_vulkan_computes_on_a_radeon(machine_at: Callable[..., Path], file: str) -> None:
    """The stock kernel's kfd is there with and without ROCm."""
    root = machine_at("gpu-amd-discrete")
    assert _kinds(root)[1] == ["small_bar", "no_vulkan_driver"]
    (root / file).parent.mkdir(parents=True)
    (root / file).touch()
    assert _kinds(root)[1] == ["small_bar"]


def test_a_library_that_does_not_answer(tmp_path: Path) -> None:
    assert _kinds(_alone(tmp_path, "init 9\n")) == ([], ["driver_silent"])


def test_a_gpu_that_is_lost_does_not_take_the_others_along(tmp_path: Path) -> None:
    lost = "gpu RTX 3090|GPU-1|24576|24000|-1|-1|-1|0|15\n"

    names, kinds = _kinds(_alone(tmp_path, f"{lost}gpu NVIDIA RTX A2000|GPU-2|6138|6000|6001|192|-1|0|0\n"))

    assert (names, kinds) == (["NVIDIA RTX A2000"], ["lost"])


def test_a_program_sees_one_instance_of_all_divided_gpus_and_the_whole_ones(tmp_path: Path) -> None:
    whole = "gpu NVIDIA L40S|GPU-9|46068|45000|9001|384|-1|0|0\n"
    divided = "".join(
        f"gpu NVIDIA H100 80GB HBM3|GPU-{at}|81559|80000|2619|5120|1|0|0\n"
        f"instance NVIDIA H100 80GB HBM3 MIG 3g.40gb|MIG-{at}|40448|40400\n"
        for at in range(2)
    )

    names, kinds = _kinds(_alone(tmp_path, divided + whole))

    assert (names, kinds) == (["NVIDIA H100 80GB HBM3 MIG 3g.40gb", "NVIDIA L40S"], ["mig_one"])


def test_a_divided_gpu_without_instances_computes_nothing(tmp_path: Path) -> None:
    script = "gpu NVIDIA A100-SXM4-80GB|GPU-1|81920|81000|1593|5120|1|0|0\n"

    assert _kinds(_alone(tmp_path, script)) == ([], ["mig_empty"])


@pytest.mark.parametrize(
    ("name", "unified", "kinds"),
    [
        ("NVIDIA GeForce RTX 4090", False, ["memory_not_told"]),  # which has memory of its own
        ("NVIDIA N1X", True, ["taken_as_shared"]),
    ],
)
def test_memory_that_the_library_does_not_tell(tmp_path: Path, name: str, unified: bool, kinds: list[str]) -> None:
    gpus, problems = gpu_machine.gpus(_alone(tmp_path, f"gpu {name}|GPU-1|-1|-1|-1|-1|-1|0|0\n"))

    assert ([gpu.unified for gpu in gpus], [problem.kind for problem in problems]) == ([unified], kinds)


def test_a_closed_device_is_behind_the_librarys_silence(tmp_path: Path) -> None:
    root = _alone(tmp_path, "init 9\n", **{"/dev/nvidiactl": "closed 44\n"})

    assert _kinds(root)[1] == ["node_closed"]


@pytest.mark.parametrize(
    ("files", "kinds"),
    [
        ({"/proc/sys/kernel/osrelease": "5.15.0-microsoft-standard-WSL2\n"}, ["wsl_no_device"]),
        ({"/dev/dxg": "open\n"}, ["wsl_no_library"]),
        ({"/proc/driver/nvidia/version": "-\n"}, ["library_missing"]),
        ({"/proc/driver/nvidia/version": "-\n", "/.dockerenv": "-\n"}, ["node_missing"]),
        ({"/proc/cmdline": "quiet\n"}, ["none"]),
    ],
)
def test_without_a_library(machine_at: Callable[..., Path], files: dict[str, str], kinds: list[str]) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has NVIDIA's library")
    assert _kinds(machine_at(None, **files)) == ([], kinds)


def test_a_driver_for_linux_in_wsl_is_in_the_way(machine_at: Callable[..., Path]) -> None:
    path = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"

    problems = gpu_machine.gpus(machine_at("gpu-wsl", **{path: "-\n"}))[1]

    assert problems == (GpuProblem("wsl_own_driver", path=path),)


def test_nomodeset_keeps_drivers_out(machine_at: Callable[..., Path]) -> None:
    assert _kinds(machine_at("gpu-no-driver", **{"/proc/cmdline": "quiet nomodeset\n"}))[1][-1] == "no_modeset"


def test_a_jetsons_memory_is_reached_through_nvmap(machine_at: Callable[..., Path]) -> None:
    gpus, problems = gpu_machine.gpus(machine_at("gpu-nvidia-jetson", **{"/dev/nvmap": "closed 44\n"}))

    assert [gpu.usable for gpu in gpus] == [False]
    assert [(problem.kind, problem.path) for problem in problems] == [("node_closed", "/dev/nvmap")]


@pytest.mark.parametrize("kind", get_args(GpuProblemKind))
def test_every_problem_has_a_sentence_of_its_own(kind: GpuProblemKind) -> None:
    problem = GpuProblem(kind, "Arc A770", "/dev/x", "detail", "1.0", "2.0", 44)
    sentences = [explain.gpu_problem(replace(problem, kind=other)) for other in get_args(GpuProblemKind)]

    assert sentences.count(explain.gpu_problem(problem)) == 1
    assert "{" not in explain.gpu_problem(problem) + explain.gpu_remedy(problem)
