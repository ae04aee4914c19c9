"""GPUs in words: what is known of one, what keeps one from being used or known, and what to do about it.

`{device}`, `{path}`, ... are fields of the problem. Where it was met in a container, the remedy is the host's.
"""

from __future__ import annotations

from dataclasses import asdict

from edgellm.types.gpu import Gpu
from edgellm.types.gpu_problem import GpuProblem, GpuProblemKind
from edgellm.types.machine import Accelerator
from edgellm.units import show_memory

_SENTENCES: dict[GpuProblemKind, str] = {
    "none": "no GPU: none on the PCI bus or in /sys/class/drm that NVIDIA, AMD or Intel made",
    "no_driver": "{device} is in this machine, but no driver has taken it",
    "no_modeset": "{device} is in this machine, but nomodeset on the kernel's command line keeps its driver out",
    "nouveau": "{device} runs on the nouveau driver, with which CUDA does not work",
    "radeon": "{device} runs on the radeon driver, which programs cannot compute with",
    "reserved": "{device} is kept for a virtual machine (vfio-pci has it)",
    "lost": "{device} answers no more ({detail})",
    "package_missing": "an NVIDIA driver is loaded, but the Python package nvidia-ml-py, which asks it, is missing",
    "library_missing": "an NVIDIA driver is loaded, but its library {path} is not found",
    "driver_mismatch": "NVIDIA's driver and its library differ in version ({versions}): no program reaches the GPU",
    "driver_silent": "an NVIDIA driver is loaded, but does not answer ({detail})",
    "mig_empty": "{device} is divided (MIG), but has no instances, so nothing can run on it",
    "mig_one": "{device} stays idle: a CUDA program sees one instance of a divided GPU (MIG)",
    "node_missing": "{subject} cannot be reached: there is no {path}",
    "node_closed": "{subject} cannot be reached: {path} belongs to group {group}, and this user is not in it",
    "node_denied": "{subject} cannot be reached: the container forbids {path} ({detail})",
    "no_vulkan_driver": "{device} has no Vulkan driver, so Vulkan builds do not see it",
    "wsl_no_device": "WSL shows no GPU: there is no /dev/dxg",
    "wsl_no_library": "WSL shows a GPU without a library of NVIDIA's: it is of another vendor, or its driver is old",
    "wsl_own_driver": "a driver for Linux is installed in WSL ({path}): CUDA takes it and finds no GPU",
    "memory_not_told": "{device}: its driver does not tell the size of its memory{because}",
    "memory_from_bar": "{device}: its driver does not tell the size of its memory; it is taken from PCI BAR 2",
    "free_not_told": "{device}: its driver tells only the administrator what others use of its memory",
    "taken_as_shared": "{device}: its driver tells of no memory{because}; it is taken to share the machine's",
    "small_bar": "{device}: the processor reaches only {detail} of its memory at once (no resizable BAR), which makes "
    "Vulkan slow",
    "not_recorded": "the memory of NVIDIA's GPUs is not in /proc, so a record of it cannot tell",
    "not_looked": "no GPU was looked for: {detail}",
    "hidden": "{device} is hidden by {path}={detail}",
    "order_guessed": "{path}={detail}: CUDA gives the fastest GPU number 0 by a rule of its own, so this is a guess",
    "numbers_of_vulkan": "{path}={detail} leaves a Vulkan build fewer GPUs than there are; which, the build shows",
}  # fmt: skip

_OF_VENDOR = {
    ("no_driver", "nvidia"): "install NVIDIA's driver (Ubuntu: sudo ubuntu-drivers install), and restart",
    ("no_driver", "amd"): "sudo modprobe amdgpu; where that fails, a newer kernel or linux-firmware helps",
    ("no_driver", "intel"): "sudo modprobe i915, or xe; where that fails, a newer kernel or linux-firmware helps",
    ("node_missing", "nvidia"): "start the container with it: docker run --gpus all, or podman run --device "
    "nvidia.com/gpu=all, with nvidia-container-toolkit on the host",
    ("no_vulkan_driver", "amd"): "sudo apt (or dnf) install mesa-vulkan-drivers; on Arch it is vulkan-radeon",
    ("no_vulkan_driver", "intel"): "sudo apt (or dnf) install mesa-vulkan-drivers; on Arch it is vulkan-intel",
    ("memory_not_told", "amd"): "update the kernel: amdgpu tells it from Linux 4.18 on",
    ("memory_not_told", "intel"): "update the kernel: xe tells it from Linux 6.8 on",
}  # fmt: skip
_IN_CONTAINER: dict[GpuProblemKind, str] = {
    "none": "where the host has one, start the container with it: docker run --gpus all, or --device /dev/dri",
    "library_missing": "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    "node_missing": "start the container with it: docker run --device {node}",
    "node_closed": "start the container with the group: docker run --group-add {group}",
}
_REMEDIES: dict[GpuProblemKind, str] = {
    "no_modeset": "take nomodeset out of GRUB_CMDLINE_LINUX in /etc/default/grub, sudo update-grub, and restart",
    "nouveau": "install NVIDIA's driver (Ubuntu: sudo ubuntu-drivers install), and restart",
    "radeon": "add radeon.cik_support=0 radeon.si_support=0 amdgpu.cik_support=1 amdgpu.si_support=1 to the kernel's "
    "command line, and restart; a card older than 2012 stays as it is",
    "reserved": "take it from the virtual machine, and its number out of vfio-pci.ids",
    "lost": "restart the machine; if it happens again, look at power supply and slot (sudo dmesg | grep Xid)",
    "package_missing": "pip install nvidia-ml-py",
    "library_missing": "install the rest of NVIDIA's driver: the package with nvidia-smi is of the same version",
    "driver_mismatch": "restart the machine: the driver was updated while the old one ran",
    "driver_silent": "nvidia-smi says more; reinstalling NVIDIA's driver is the usual cure",
    "mig_empty": "sudo nvidia-smi -mig 0 ends the division; sudo nvidia-smi mig -cgi 0 -C makes one instance of it all",
    "mig_one": "CUDA_VISIBLE_DEVICES=MIG-... chooses another (nvidia-smi -L lists them)",
    "node_missing": "its kernel driver makes the file: sudo modprobe it, or look for its errors in sudo dmesg",
    "node_closed": "sudo usermod -aG {group} $USER, then log in again",
    "node_denied": "give the container the device, not a volume: docker run --device {path}",
    "wsl_no_device": "wsl --update and wsl --shutdown in Windows, with WSL 2 and a current driver of the GPU's vendor",
    "wsl_no_library": "for NVIDIA update its driver in Windows; another vendor's GPU computes under Windows, not here",
    "wsl_own_driver": "remove it (sudo apt purge 'nvidia-driver-*' 'libnvidia-compute-*'): Windows' driver serves WSL",
    "small_bar": "switch on Resizable BAR and Above 4G Decoding in the firmware's settings",
    "hidden": "unset {path} where it should be used",
    "order_guessed": "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name them by UUID (nvidia-smi -L lists them)",
}  # fmt: skip


_GUESSES = {
    "variant": "the slowest of that name",
    "family": "as others of its family",
    "bandwidth": "as the newest of its vendor for its bandwidth",
}


def accelerator(gpu: Accelerator) -> str:
    """Its name, and its memory as far as that is known: `"Arc B580 (xe), 11.93 GiB, free 10.20 GiB"`."""
    size = "memory unknown" if gpu.vram_bytes is None else show_memory(gpu.vram_bytes)
    if gpu.unified:
        size = "shares the machine's memory" if gpu.vram_bytes is None else f"up to {size} of the machine's memory"
    free = "" if gpu.free_bytes is None else f", free {show_memory(gpu.free_bytes)}"
    draws = ", draws a screen" if gpu.display else ""
    barred = "" if gpu.usable else "; cannot be used"
    return f"{gpu.name} ({gpu.kind}), {size}{free}{draws}{barred}"


def gpu_facts(gpu: Gpu | None) -> str:
    """What its speed follows from, and how far that is to be trusted."""
    if gpu is None:
        return "not in the table of GPUs: its speed is not predicted"
    if gpu.bandwidth_range is None:
        speed = f"{gpu.bandwidth_gb_s:g} GB/s"
    else:
        speed = "{:g} to {:g} GB/s".format(*gpu.bandwidth_range)
    rates = f"{gpu.fp32_tflops:.3g} TFLOPS, {gpu.matrix_tflops:.3g} in FP16"
    guess = "" if gpu.known == "device" else f", {_GUESSES[gpu.known]}"
    trust = "looked up" if gpu.trust == "verified" else "from memory, not looked up"
    return f"{gpu.group}: {speed}, {rates}{guess} ({trust})"


def gpu_problem(of: GpuProblem) -> str:
    """What is wrong, for people."""
    return _SENTENCES[of.kind].format_map(_words(of))


def gpu_remedy(of: GpuProblem) -> str:
    """What to do about it; "" = nothing, or nothing to be done."""
    inside = _IN_CONTAINER.get(of.kind, "") if of.container else ""
    if of.kind == "node_closed" and of.group == 0:  # root's, which nobody should join
        return f"{'on the host: ' if of.container else ''}sudo chgrp render {of.path}; sudo chmod 660 {of.path}"
    text = _OF_VENDOR.get((of.kind, of.vendor)) or inside or _REMEDIES.get(of.kind, "")
    return text.format_map(_words(of))


def _words(of: GpuProblem) -> dict[str, object]:
    versions = [f"{what} {version}" for what, version in (("driver", of.driver), ("library", of.library)) if version]
    return asdict(of) | {
        "versions": ", ".join(versions) or of.detail,
        "because": f" ({of.detail})" if of.detail else "",
        "subject": of.device or "NVIDIA's GPU",
        "node": of.path.removesuffix("/renderD*"),
    }
