"""Built-in rules: one rule a file under `rewrite/` and `index/`.

They enter planproof as any plugin's do, by the hook below; a new file is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from optimizer.hooks import hookimpl
from optimizer.rule import Rule
from rules import index, rewrite


@hookimpl
def planproof_rules() -> list[Rule]:
    """Return one instance of every rule class in the two folders."""
    return [rule() for folder in (rewrite, index) for rule in _rule_classes(folder)]


def _rule_classes(folder: ModuleType) -> Iterator[type[Rule]]:
    for module_info in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
        module = importlib.import_module(module_info.name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module.__name__:
                yield value
