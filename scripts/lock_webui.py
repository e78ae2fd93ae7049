"""Write src/reviewmill/chat/open-webui-slim.txt: every package of the slim Open WebUI, with version and digests.

usage: python scripts/lock_webui.py VERSION requirements-slim.txt      (needs uv and the package index)

Open WebUI's official list of slim requirements is `backend/requirements-slim.txt` in its source archive. It names the
direct requirements; here they are resolved, for Python 3.11 and 3.12 on Linux and macOS, so that everybody installs the
same files and none that was changed on its way.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "src/reviewmill/chat/open-webui-slim.txt"
_PYTHON = re.compile(r"-(cp311|cp312|cp3\d+-abi3|cp3-abi3|py3|py2\.py3)[-.]")
_SYSTEM = re.compile(r"-any\.whl$|manylinux|musllinux|macosx")
_OTHER = re.compile(r"i686|armv7l|ppc64|s390x|riscv64|loongarch|win32|win_")
_BUILT_FOR = re.compile(r"-any\.whl$|manylinux\S*x86_64")


def resolve(requirements: Path, folder: Path, *options: str) -> list[dict[str, Any]]:
    """What uv makes of a list of requirements."""
    lock = folder / "pylock.toml"
    command = ["uv", "pip", "compile", "-q", "--universal", "--python-version", "3.11", "--format", "pylock.toml"]
    subprocess.run([*command, *options, str(requirements), "-o", str(lock)], check=True)  # noqa: S603
    packages: list[dict[str, Any]] = tomllib.loads(lock.read_text("utf-8"))["packages"]
    lock.unlink()
    return packages


def wheels_of(package: dict[str, Any]) -> list[dict[str, Any]]:
    """The wheels that one of our interpreters on one of our systems can use."""
    return [wheel for wheel in package["wheels"] if usable(wheel["url"].rpartition("/")[2])]


def usable(name: str) -> bool:
    """Whether a wheel is for one of our interpreters and systems."""
    return bool(_PYTHON.search(name) and _SYSTEM.search(name)) and not _OTHER.search(name)


def size_of(package: dict[str, Any]) -> int:
    """Bytes that one machine (Linux, x86-64) downloads of it."""
    sizes = [w["size"] for w in wheels_of(package) if _BUILT_FOR.search(w["url"])]
    return max(sizes, default=0)


def line_of(package: dict[str, Any]) -> str:
    """The package as pip reads it."""
    marker = package.get("marker", "").replace("python_full_version >= '3.11' and ", "")
    only = "" if marker in {"", "python_full_version >= '3.11'"} else f" ; {marker}"
    digests = sorted({wheel["hashes"]["sha256"] for wheel in wheels_of(package)})
    if not digests:
        raise SystemExit(f"{package['name']} has no wheel for us")
    return " \\\n    ".join(
        [f"{package['name']}=={package['version']}{only}", *(f"--hash=sha256:{d}" for d in digests)]
    )


def main(version: str, requirements: Path) -> None:
    """Resolve and write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = folder / "wheel.txt"
        wheel.write_text(f"open-webui=={version}\n", "utf-8")
        packages = resolve(requirements, folder) + resolve(wheel, folder, "--no-deps")
    ours = [p for p in packages if not re.search(r"== '(win32|emscripten)'", p.get("marker", ""))]
    head = (
        f"# Open WebUI {version}, slim: made by scripts/lock_webui.py from its official requirements-slim.txt.\n"
        f"# download: {sum(map(size_of, ours))} bytes\n"
    )
    TARGET.write_text(head + "\n".join(map(line_of, ours)) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
