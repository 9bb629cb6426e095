"""vlcap's encoders for Hugging Face's Auto classes: `AutoModel.from_pretrained(FOLDER)` works after `import vlcap`.

Importing vlcap must stay light: on a CPU, captioning needs neither transformers nor PyTorch. So nothing is registered
until transformers' Auto classes are there. If they are there already, that is now. Otherwise a hook waits for the
module that defines them to be imported, registers right after it, and is gone. Programs that never use Auto classes
notice nothing.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

AUTO = "transformers.models.auto.modeling_auto"  # defines AutoModel and its kind; vision-encoder-decoder needs it


def register() -> None:
    """Tells transformers' Auto classes about vlcap's encoders. Imports transformers, PyTorch and timm."""
    from .model import encoder  # noqa: F401 - it registers itself


def register_with_auto_classes() -> None:
    """Registers now if transformers' Auto classes are imported already, and otherwise as soon as they are."""
    if AUTO in sys.modules:
        register()
    elif not any(isinstance(each, _Hook) for each in sys.meta_path):
        sys.meta_path.insert(0, _Hook())


class _Hook:
    """A finder of modules that finds none: it only adds a step after the import of one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != AUTO:
            return None
        sys.meta_path.remove(self)  # once is enough, and the real finders come next
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
