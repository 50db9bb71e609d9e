"""Where networks come from, one file a source. :func:`load_model` asks each in turn; what it hands
over, :class:`Loaded`, says how inputs are prepared, and :func:`open_folder` prepares them."""

from .folders import class_folders, open_folder
from .load import load_model
from .loaded import Loaded

__all__ = ["Loaded", "class_folders", "load_model", "open_folder"]
