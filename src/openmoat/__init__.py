"""OpenMoat: an IPsec virtual private network with a virtually large MTU."""

from typing import TYPE_CHECKING

__version__: str
"""Version of the installed package; the one place that gives it is `rust/Cargo.toml`."""

if not TYPE_CHECKING:  # to a type checker this would give every name a type

    def __getattr__(name: str) -> str:
        """The version, read from the package's metadata when it is first asked for: a plain `moat status` never is."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        globals()[name] = version("openmoat")
        return globals()[name]
