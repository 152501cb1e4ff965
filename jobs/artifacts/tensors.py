"""Files of named arrays, in the safetensors format."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file


def write_tensors(path: Path, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Write a ``.safetensors`` file.

    Raises:
        OSError: It could not be written.
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        # safetensors reports a full disk as "... (os error 28)" without an errno.
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
