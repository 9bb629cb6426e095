"""vlcap's encoders for Hugging Face's Auto classes: `AutoModel.from_pretrained(FOLDER)` works after `import vlcap`.

Importing vlcap must stay light: on a CPU, captioning needs neither transformers nor PyTorch. So nothing is registered
before somebody imports transformers. If that has happened already, it is done now. Otherwise a hook does it right
after the import of transformers, and is gone. Not later: transformers imports its Auto classes while it is still in the
middle of its other modules, where ours could not be imported.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

NAME = "transformers"


def register() -> None:
    """Tells transformers' Auto classes about vlcap's encoders. Imports transformers, PyTorch and timm."""
    from .model import encoder  # noqa: F401 - it registers itself


def register_with_transformers() -> None:
    """Registers now if transformers is imported already, and otherwise as soon as it is."""
    if NAME in sys.modules:
        register()
    elif not any(isinstance(each, _Hook) for each in sys.meta_path):
        sys.meta_path.insert(0, _Hook())


class _Hook:
    """A finder of modules that only adds a step after the import of one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec of transformers, with the step. Asking for it does not import: many libraries do that."""
        spec = PathFinder.find_spec(name, path, target) if name == NAME else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                self._finish()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec

    def _finish(self) -> None:
        sys.meta_path.remove(self)
        if "vlcap.model.folder" in sys.modules:
            return  # it is importing transformers, and is not complete; the encoders import it, and register themselves
        try:
            register()
        except ImportError as error:  # others may need transformers without us
            warnings.warn(f"transformers does not know vlcap's encoders: {error}", stacklevel=2)
