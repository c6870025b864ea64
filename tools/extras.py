"""Prints the requirements of an extra of pyproject.toml: python tools/extras.py test"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(
    (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
)
print("\n".join(project["project"]["optional-dependencies"][sys.argv[1]]))
