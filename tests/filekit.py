"""What the tests of files share."""

import os
import pathlib


def path_with(folder, data, name="f"):
    path = os.path.join(folder, name)
    pathlib.Path(path).write_bytes(data)
    return path
