"""Finds the method and the backbone that settings name, in the package or in your own files.

A name such as "icarl" stands for a class of the package. A class of your own is named as
`path.py:Class` by a flag, or given as the class itself from Python; from then on its name stands
for it in this process. Files of settings and the folders of runs can name such a class, but never
make its file run: only the user does.

Nothing is imported before it is asked for, so importing this module does not import JAX.
"""

import functools
import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from cil_jax.errors import UserError, nearest_name


class Origin(NamedTuple):
    """Where a class from outside the package comes from.

    Attributes:
      name: of the class.
      file: the absolute path of its file; None if it was typed into an interpreter.
      sha256: the checksum of the file when it was loaded; None without a file.
    """

    name: str
    file: str | None
    sha256: str | None

    def __str__(self) -> str:
        return f"{self.file}:{self.name}" if self.file else self.name


class Registry(Mapping[str, type]):
    """Classes by name. Its items are those of the package; `named` also finds the user's.

    Args:
      kind: what the classes are, such as "method".
      flag: the flag that names one.
      base: the class that they are subclasses of, as "module:Class".
      required: the method that a class must define itself, as the base has none that works.
      built_in: the classes of the package by name, as "module:Class".
    """

    def __init__(
        self, kind: str, base: str, required: str, built_in: Mapping[str, str] | None = None
    ) -> None:
        self.kind, self.flag = kind, f"--{kind}"
        self._base, self._required, self._built_in = base, required, dict(built_in or {})
        self._own: dict[str, type] = {}
        self._origins: dict[type, Origin] = {}

    def __getitem__(self, name: str) -> type:
        return _imported(self._built_in[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._built_in)

    def __len__(self) -> int:
        return len(self._built_in)

    def __contains__(self, name: object) -> bool:
        return name in self._built_in

    def own(self, name: str) -> type | None:
        """The class from outside the package that the user has named; None if there is none."""
        return self._own.get(name)

    def named(self, name: str) -> type:
        """The class of a name.

        Raises:
          UserError: if there is none.
        """
        if name in self:
            return self[name]
        if name not in self._own:
            hint = nearest_name(name, self) or ""
            raise UserError(
                f"unknown {self.kind} {name!r}{hint}, or path.py:Class for one of your own"
            )
        return self._own[name]

    def add(self, code: str | type) -> str:
        """Makes a class known, unless it is given by a name, and returns the name.

        It takes the place of an earlier one of the same name.

        Args:
          code: a name, "path.py:Class", or a class.

        Raises:
          UserError: if the file can't be read or imported or lacks the class, or if the class can't
            be used.
        """
        if isinstance(code, str):
            path, colon, name = code.rpartition(":")
            if not colon:
                return code
            file = Path(path).expanduser().absolute()
            cls, place = _class_in(file, name), f"{path}:{name}"
            origin = Origin(name, str(file), _module(file).__dict__["__sha256__"])
        else:
            cls, name, place = code, code.__name__, code.__name__
            for built_in in self._built_in:
                if self._built_in[built_in] == f"{cls.__module__}:{cls.__qualname__}":
                    return built_in
            origin = _origin_of(cls)
        self._check(cls, place)
        self._own[name] = cls
        self._origins.setdefault(cls, origin)
        return name

    def origin(self, cls: type | None) -> Origin | None:
        """Where a class comes from; None for a class of the package."""
        return self._origins.get(cls) if cls else None

    def _check(self, cls: object, place: str) -> None:
        """Checks that a class of the user's can be used.

        Raises:
          UserError: why it can't.
        """
        base = _imported(self._base)
        if not isinstance(cls, type) or not issubclass(cls, base):
            wanted = self._base.replace(":", ".")
            raise UserError(f"{place} is no {self.kind}: it must be a subclass of {wanted}")
        if cls.__name__ in self:
            raise UserError(
                f"{place} has the name of a {self.kind} of the package: choose another name"
            )
        if not any(self._required in vars(c) for c in cls.__mro__[: cls.__mro__.index(base)]):
            raise UserError(f"{place} does not define {self._required}")
        if "__dataclass_params__" not in vars(cls):  # its annotated fields would be ignored
            raise UserError(f"{place} lacks the line @dataclasses.dataclass(frozen=True) above it")


METHODS = Registry(
    "method",
    "cil_jax.methods.base:Method",
    "loss",
    {
        "finetune": "cil_jax.methods.finetune:Finetune",
        "joint": "cil_jax.methods.joint:Joint",
        "fixed": "cil_jax.methods.fixed:FixedRepresentation",
        "lwf": "cil_jax.methods.lwf:LwF",
        "lwm": "cil_jax.methods.lwm:LwM",
        "ewc": "cil_jax.methods.ewc:EWC",
        "si": "cil_jax.methods.si:SI",
        "mas": "cil_jax.methods.mas:MAS",
        "replay": "cil_jax.methods.replay:Replay",
        "icarl": "cil_jax.methods.icarl:ICaRL",
        "er": "cil_jax.methods.er:ER",
        "er_ace": "cil_jax.methods.er_ace:ERACE",
        "derpp": "cil_jax.methods.derpp:DarkExperienceReplay",
        "gdumb": "cil_jax.methods.gdumb:GDumb",
        "eeil": "cil_jax.methods.eeil:EEIL",
        "bic": "cil_jax.methods.bic:BiC",
        "wa": "cil_jax.methods.wa:WA",
        "il2m": "cil_jax.methods.il2m:IL2M",
        "ssil": "cil_jax.methods.ssil:SSIL",
        "lucir": "cil_jax.methods.lucir:LUCIR",
        "podnet": "cil_jax.methods.podnet:PODNet",
        "der": "cil_jax.methods.der:DER",
        "memo": "cil_jax.methods.memo:MEMO",
        "foster": "cil_jax.methods.foster:FOSTER",
        "pass": "cil_jax.methods.pass_:PASS",
        "simplecil": "cil_jax.methods.simplecil:SimpleCIL",
        "fecam": "cil_jax.methods.fecam:FeCAM",
        "slda": "cil_jax.methods.slda:SLDA",
        "fetril": "cil_jax.methods.fetril:FeTrIL",
        "acil": "cil_jax.methods.acil:ACIL",
        "dsal": "cil_jax.methods.dsal:DSAL",
        "ranpac": "cil_jax.methods.ranpac:RanPAC",
    },
)

# Those of the package have no class each: see `cil_jax.models.BACKBONES`.
BACKBONES = Registry("backbone", "flax.linen:Module", "__call__")


def name(method: str | type | None, backbone: str | type | None) -> None:
    """Makes the classes known that the user names; None for a class of the package.

    Raises:
      UserError: see `Registry.add`.
    """
    for registry, given in ((METHODS, method), (BACKBONES, backbone)):
        if given is not None:
            registry.add(given)


def record(method: type | None, backbone: str) -> dict[str, dict[str, Any]]:
    """The entry `code` of config.yaml: where the classes from outside the package come from."""
    origins = {
        "method": METHODS.origin(method),
        "backbone": BACKBONES.origin(BACKBONES.own(backbone)),
    }
    return {kind: origin._asdict() for kind, origin in origins.items() if origin}


def named_again(recorded: object) -> list[str] | None:
    """The flags that name the classes of a run from outside the package.

    Args:
      recorded: the entry `code` of the run's config.yaml, or None.

    Returns:
      The words; None if a class is in no file.
    """
    words = []
    for registry in (METHODS, BACKBONES):
        if origin := _recorded(recorded, registry):
            if not origin.file:
                return None
            words += [registry.flag, str(origin)]
    return words


def check_known(recorded: object, source: str) -> None:
    """Checks that the user has named the classes from outside the package that a run needs.

    Args:
      recorded: the entry `code` of the run's config.yaml, or None.
      source: the run, for the error message.

    Raises:
      UserError: which class is to be named.
    """
    for registry in (METHODS, BACKBONES):
        origin = _recorded(recorded, registry)
        if origin and registry.own(origin.name) is None:
            raise UserError(
                f"{source} names a {registry.kind} from outside the package, whose code is not run "
                f"unasked: name it again, as in {registry.flag} {origin} (in Python: "
                f"{registry.kind}={origin.name})"
            )


def changes(recorded: object) -> list[str]:
    """Says which files have changed since a run recorded them, each in a few words."""
    changed = []
    for registry in (METHODS, BACKBONES):
        before = _recorded(recorded, registry)
        now = registry.origin(registry.own(before.name)) if before else None
        if before and now and before.sha256 != now.sha256:
            changed.append(f"{now.file or now.name} has another content")
    return changed


def checksums(recorded: object) -> str:
    """The beginnings of the checksums of a run's code, by which runs are told apart; "" if none."""
    origins = [_recorded(recorded, registry) for registry in (METHODS, BACKBONES)]
    return ", ".join(f"{origin.name} {str(origin.sha256)[:8]}" for origin in origins if origin)


def _recorded(recorded: object, registry: Registry) -> Origin | None:
    """The origin that a run recorded of its method or backbone; None if it is the package."""
    entry = recorded.get(registry.kind) if isinstance(recorded, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    return Origin(entry["name"], entry.get("file"), entry.get("sha256"))


def _imported(place: str) -> type:
    """The class at "module:Class"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _origin_of(cls: type) -> Origin:
    """The origin of a class that was not loaded by `_class_in`."""
    try:
        file = inspect.getsourcefile(cls)
        content = Path(file).read_bytes() if file else None
    except (TypeError, OSError):
        file = content = None
    if not file or content is None:
        return Origin(cls.__name__, None, None)
    return Origin(cls.__name__, str(Path(file).absolute()), hashlib.sha256(content).hexdigest())


def _class_in(file: Path, name: str) -> Any:
    """What a Python file calls by a name.

    Raises:
      UserError: if the file can't be imported, or has nothing of that name.
    """
    module = _module(file)
    if name not in vars(module):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        own = [key for key in classes if vars(module)[key].__module__ == module.__name__]
        raise UserError(f"{file} has no class {name!r}{nearest_name(name, own) if own else ''}")
    return vars(module)[name]


def _module(file: Path) -> ModuleType:
    """The module in a file, which is run again only if its content has changed.

    Raises:
      UserError: if the file can't be read or run.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"can't read {file}: {error.strerror}") from error
    return _run(file, content)


@functools.cache
def _run(file: Path, content: bytes) -> ModuleType:
    """The module that results from running the content of a file."""
    sha256 = hashlib.sha256(content).hexdigest()
    module = ModuleType(f"{file.stem}_{sha256[:12]}")
    vars(module).update(__file__=str(file), __sha256__=sha256)
    sys.modules[module.__name__] = module  # dataclasses look it up
    try:
        exec(compile(content, str(file), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        frames = [f.lineno for f in traceback.extract_tb(error.__traceback__)
                  if f.filename == str(file)]  # fmt: skip
        line = error.lineno if isinstance(error, SyntaxError) else next(iter(frames), None)
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        reason = f"{type(error).__name__}: {' '.join(text.split())}"
        raise UserError(f"{file} can't be imported: line {line}: {reason}") from error
    return module
