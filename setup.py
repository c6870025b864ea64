"""Build of arshai_native._core. Everything else about the project is in pyproject.toml.

Environment: ARN_DEV=1 turns warnings into errors and keeps debug information; ARN_WAKEFD=pipe
builds the portable wake-up descriptor on Linux, to test it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import sources  # noqa: E402  (the one list of sources, shared with the Makefile)

APT = (
    "apt-get install build-essential pkg-config python3-dev "
    "libuv1-dev libhiredis-dev libcurl4-openssl-dev libnghttp2-dev libssl-dev"
)
# pkg-config name, least version (Debian 12's), what it is
LIBRARIES = [
    ("libuv", "1.44", "libuv"),
    ("hiredis", "0.14", "hiredis"),
    ("libcurl", "7.86", "libcurl"),
    ("libnghttp2", "1.52", "nghttp2"),
    ("openssl", "3.0", "OpenSSL"),
]


def fail(what: str) -> None:
    raise SystemExit(f"\narshai_native: {what}.\nOn Debian or Ubuntu: {APT}\n")


def pkg_config(*args: str) -> list[str]:
    return subprocess.run(
        ["pkg-config", *args], check=True, capture_output=True, text=True
    ).stdout.split()


def check_tools(compiler: str) -> None:
    """Names what is missing instead of letting the compiler do it."""
    if shutil.which("pkg-config") is None:
        fail("the program pkg-config is missing")
    if shutil.which(compiler) is None:
        fail(f"the C compiler {compiler} is missing")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        fail(f"Python.h of {sys.executable} is missing (package python3-dev, or its -dev twin)")
    for name, version, title in LIBRARIES:
        if subprocess.run(["pkg-config", "--atleast-version", version, name]).returncode != 0:
            fail(f"the development files of {title} {version} or newer are missing")


class BuildExt(build_ext):
    def build_extensions(self) -> None:
        check_tools((self.compiler.compiler_so or ["cc"])[0])
        names = [name for name, _, _ in LIBRARIES]
        for extension in self.extensions:
            extension.extra_compile_args += pkg_config("--cflags", *names)
            extension.extra_link_args += ["-Wl,--as-needed"] * (sys.platform == "linux")
            extension.extra_link_args += pkg_config("--libs", *names)
        super().build_extensions()


flags = ["-std=gnu11", "-fvisibility=hidden", "-fno-semantic-interposition", "-pthread"]
if os.environ.get("ARN_DEV"):
    flags += ["-Wall", "-Wextra", "-Werror", "-g"]

setup(
    ext_modules=[
        Extension(
            "arshai_native._core",
            sources=sources.core() + sources.bindings(),
            depends=sources.headers(),
            include_dirs=["include", "src"],
            extra_compile_args=flags,
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": BuildExt},
)
