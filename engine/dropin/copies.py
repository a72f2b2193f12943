"""An accelerated copy of another library's object: a subclass instance that shares everything it can with the original.

The copy passes `isinstance`, and checks of the class name, as the original does; the original stays as it was.
"""

from __future__ import annotations

import copy
import pkgutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # attributes of a module
_CLASSES: dict[tuple[Any, Any], type] = {}  # by mixin and original class; pickle wants one class of a name
WAY_OUT = "use .to_transformers(), which gives the original back"


class Accelerated:
    """What all accelerated copies have: the way back."""

    _original: Any

    def to_transformers(self) -> Any:
        """The unaccelerated original, which can be trained, exported and changed."""
        return self._original


def accelerated_copy(original: Any, mixin: Any = Accelerated) -> Any:
    """A shallow copy of `original` whose class is a subclass of its own with the methods of `mixin`."""
    cls: Any = type(original)
    made = shallow_copy(original, _class(mixin, cls))
    vars(made)["_original"] = original
    return made


def shallow_copy(original: Any, cls: type) -> Any:
    """An instance of `cls` with the attributes of `original`.

    Private dicts among them, in which torch modules keep parts and hooks, are copied, so that changing those of the
    copy leaves the original alone.
    """
    made: Any = object.__new__(cls)
    for name, value in vars(original).items():
        vars(made)[name] = copy.copy(value) if name.startswith("_") and isinstance(value, dict) else value
    return made


@dataclass(frozen=True)
class Namespace:
    """Accelerated classes by the path of the class that each stands for: `namespace.transformers.models.bert.…`.

    The module of a mixin has one as `accelerated`, which makes that path the qualified name of its classes. So pickle
    finds them by name, in another process too, and `str(type(x))` has what libraries look for in it.
    """

    mixin: Any  # Accelerated or a subclass
    path: str = ""

    def __getattr__(self, name: str) -> Any:
        path = f"{self.path}.{name}" if self.path else name
        try:
            found = pkgutil.resolve_name(path)
        except (ImportError, ValueError) as error:  # ValueError: `name` is no identifier, as "<locals>"
            raise AttributeError(f"there is no {path} to accelerate: {error}") from error
        return _class(self.mixin, found) if isinstance(found, type) else Namespace(self.mixin, path)


def frozen(modules: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of modules and of all within that have parts, whose parts and hooks can't be changed.

    Modules without parts, which hold the parameters, are shared.
    """
    made = {}
    for name, module in modules.items():
        if module is not None and module._modules:
            module = shallow_copy(module, type(module))
            parts = {"_modules": Frozen(frozen(module._modules))}
            hooks = {kind: FrozenHooks(vars(module)[kind]) for kind in HOOKS}
            vars(module).update(parts | hooks)
        made[name] = module
    return made


def refuse_change(_: Any, name: Any = None, *__: Any, **___: Any) -> NoReturn:
    """A method, or an item's setter, that would change parameters which are packed already; `name` is what."""
    what = f"{name}: " if isinstance(name, str) else ""
    raise TypeError(f"{what}an accelerated model can't be changed; {WAY_OUT}, change that, then accelerate again")


def notes_outputs(hook: Any) -> bool:
    """Whether a hook is one by which transformers itself notes outputs."""
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


class Frozen(dict[Any, Any]):
    """A dict that refuses changes. Copies of it are plain dicts."""

    _refuse: Any = refuse_change
    __setitem__ = __delitem__ = pop = popitem = clear = update = setdefault = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OrderedDict, (dict(self),)


class FrozenHooks(Frozen):
    """Hooks of a module that is never run, of which only those by which transformers notes outputs may come."""

    def __setitem__(self, number: int, hook: Any) -> None:
        if not notes_outputs(hook):
            refuse_change(self)
        dict.__setitem__(self, number, hook)


def _class(mixin: Any, cls: Any) -> type:
    names = {"__module__": mixin.__module__, "__qualname__": f"accelerated.{cls.__module__}.{cls.__qualname__}"}
    found = _CLASSES.get((mixin, cls)) or type(cls.__name__, (mixin, cls), {**names, "__doc__": cls.__doc__})
    return _CLASSES.setdefault((mixin, cls), found)  # Threads that make it at once get the same class.


accelerated = Namespace(Accelerated)
