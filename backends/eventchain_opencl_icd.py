"""Which OpenCL drivers there are: the loader's own, and Intel's CPU runtime where it is a Python package."""

from __future__ import annotations

import atexit
import os
import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyopencl as cl

SYSTEM = Path("/etc/OpenCL/vendors")
CHOSEN_BY_USER = ("OCL_ICD_VENDORS", "OPENCL_VENDOR_PATH")


def platforms() -> list[Any]:
    """All OpenCL platforms. Raises pyopencl.Error when there is none.

    PyOpenCL's loader knows the system's drivers (a text file with the library's path for each, an
    "installable client driver") and PoCL's package. Intel's package brings such a file with a path that
    exists nowhere, so the loader gets a folder with a right one. It reads it in the process's first call.
    """
    library = intel_runtime()
    if library is None or any(os.environ.get(name) for name in CHOSEN_BY_USER):
        return list(cl.get_platforms())
    with TemporaryDirectory(prefix="eventchain-icd-") as folder:
        for driver in SYSTEM.glob("*.icd"):
            shutil.copy(driver, folder)
        Path(folder, "eventchain-intel.icd").write_text(f"{_without_spaces(library)}\n")
        os.environ["OCL_ICD_VENDORS"] = folder
        try:
            return list(cl.get_platforms())
        finally:
            del os.environ["OCL_ICD_VENDORS"]


def intel_runtime() -> Path | None:
    """The library of the package ``intel-opencl-rt``, where it is installed."""
    try:
        found = [file for file in files("intel-opencl-rt") or () if file.name == "libintelocl.so"]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())).resolve() if found else None


def _without_spaces(library: Path) -> Path:
    """Intel's runtime looks for its other files where it really lies, and fails over a space in that path.
    Then it is given a folder of its own, which must last as long as the process."""
    if " " not in str(library):
        return library
    folder = TemporaryDirectory(prefix="eventchain-intel-")
    atexit.register(folder.cleanup)
    for file in library.parent.iterdir():
        if file.suffix in (".rtl", ".o", ".cfg") or ".so" in file.suffixes:
            place = Path(folder.name, file.name)
            try:
                place.hardlink_to(file.resolve())
            except OSError:  # another file system
                if file.resolve() == library:
                    shutil.copyfile(library, place)
                else:
                    place.symlink_to(file)
    return Path(folder.name, "libintelocl.so")


def unusable(device: Any) -> str:
    """Why nothing can be compiled for the device, or an empty string."""
    # PoCL names LLVM's processor in its device version; Clang has no "generic" one on x86. An older PoCL
    # takes Zen 4 for Zen 3, offers 512-bit vectors, makes no right code for them, and aborts.
    unknown = device.version.endswith("-generic") or (
        device.version.endswith(("-znver1", "-znver2", "-znver3")) and device.native_vector_width_int > 8
    )
    if "PoCL" in device.version and "x86_64" in device.version and unknown:
        return "this PoCL is too old to know this processor"
    return ""
