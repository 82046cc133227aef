"""The public names, exactly; and that all of them are typed."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import pg_wired

NAMES = """
    AsyncConn AsyncPool AuthenticationError CancelToken Column ConfigError ConnConfig ConnectionClosed ExclusiveConn
    FieldDescription FormatCode IoError ListenerGap Notification NotificationGap NotificationReceiver Oid Outcome
    PgError PgPipeline PgWireError PipelineAborted PipelineResponse PoolExhausted PoolListener PoolStats ProtocolError
    RequestTimeout ResponseCollector RowStream Rows StatementDescription TlsConfig TlsMode TransactionError
    TransactionStatus UsageError WireConn
"""
# What is loaded with its first use: by a connect, the first statement, an error that is shown, a verb.
LATER = {"connect.wire_conn", "config.config", "connect.connector", "client.exclusive"}
LATER |= {"pool.async_pool", "config.tls", "protocol.messages", "auth.handshake", "protocol.columns"}
LATER |= {"protocol.records", "protocol.trace"}
ROOTS = {
    pg_wired.IoError: OSError,
    pg_wired.RequestTimeout: TimeoutError,
    pg_wired.PoolExhausted: TimeoutError,
    pg_wired.ConfigError: ValueError,
    pg_wired.UsageError: RuntimeError,
}


@pytest.mark.smoke
def test_the_names_are_exactly_these() -> None:
    assert pg_wired.__all__ == NAMES.split()
    everything: dict[str, Any] = {}
    exec("from pg_wired import *", everything)
    assert set(everything) - {"__builtins__"} == set(NAMES.split())
    public = {name for name, value in everything.items() if name[0] != "_" and not inspect.ismodule(value)}
    public |= {name for name, value in vars(pg_wired).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert public - {"annotations"} == set(NAMES.split())


def test_the_type_hints_are_shipped() -> None:
    assert resources.files("pg_wired").joinpath("py.typed").is_file()


def members(cls: type) -> list[tuple[str, Any]]:
    """The public functions and properties that a class of ours says itself."""
    found = []
    for name, value in vars(cls).items():
        plain = value.fget if isinstance(value, property) else inspect.unwrap(getattr(value, "__func__", value))
        if inspect.isfunction(plain) and (name[0] != "_" or name == "__init__"):
            found.append((f"{cls.__name__}.{name}", plain))
    return found


CLASSES = [value for name in NAMES.split() if inspect.isclass(value := getattr(pg_wired, name))]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_everything_is_typed_and_explained(cls: type) -> None:
    if not cls.__module__.startswith("pg_wired"):  # Oid is an int
        return
    assert cls.__doc__
    for name, function in members(cls):
        if function.__module__ != cls.__module__:  # a NamedTuple's or a dataclass's own
            continue
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        untyped = [each.name for each in parameters[1:] if each.annotation is inspect.Parameter.empty]
        assert not untyped and signature.return_annotation is not inspect.Signature.empty, name
        assert function.__doc__ or function.__name__ == "__init__", name


def test_one_tree_of_errors() -> None:
    for cls in CLASSES:
        if issubclass(cls, BaseException):
            assert issubclass(cls, pg_wired.PgWireError)
            assert issubclass(cls, ROOTS.get(cls, Exception))


def test_the_import_needs_nothing_but_the_standard_library() -> None:
    source = str(Path(pg_wired.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {source!r}); import pg_wired; print(*sys.modules)"
    isolated = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    roots = {name.partition(".")[0] for name in isolated.stdout.split()}
    roots = {name for name in roots if "cython" not in name}  # what compiled modules bring along
    assert roots - sys.stdlib_module_names - {"__main__"} == {"pg_wired"}
    loaded = {name.removeprefix("pg_wired.") for name in isolated.stdout.split()}
    assert not loaded & LATER, "the import takes longer by these"
