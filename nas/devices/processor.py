"""Description of this machine's processor. Standard library only: it runs on the device."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any


def describe_processor() -> dict[str, Any]:
    """Return everything that decides this machine's speed: processor, model numbers, cores, machine and system."""
    info = {"processor": platform.processor() or platform.machine(), "machine": platform.machine()}
    cpuinfo, board = Path("/proc/cpuinfo"), Path("/proc/device-tree/model")
    if cpuinfo.is_file():
        fields = dict(re.findall(r"^([\w ]+?)\s*: (.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE))
        info["processor"] = fields.get("model name") or fields.get("Model") or info["processor"]
        numbers = [fields.get(key) for key in ("cpu family", "model", "stepping")]
        if all(numbers):
            info["model"] = "/".join(str(number) for number in numbers)
    elif sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        info["processor"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if board.is_file():  # "Raspberry Pi 4 Model B Rev 1.4": on ARM, cpuinfo often has no model name
        info["processor"] = board.read_text(errors="replace").strip("\0 \n") or info["processor"]
    return {**info, "cores": os.cpu_count() or 1, "system": platform.system()}


def processor_slug(device: dict[str, Any]) -> str:
    """Return a folder name for a device: 'intel-xeon-processor-6-207-2'."""
    text = re.sub(r"\((r|tm|c)\)|cpu|@.*", " ", f"{device['processor']}".lower())
    return re.sub(r"[^a-z0-9]+", "-", f"{text} {device.get('model', '')}").strip("-")
