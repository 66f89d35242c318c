"""The quantization methods, one file per method; a new file in this folder is found and registered by itself."""

import pkgutil
from importlib import import_module

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
