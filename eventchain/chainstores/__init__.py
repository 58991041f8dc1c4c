"""Chain stores: where branches, blocks, tiles, leaf pieces and the events of child branches are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventchain.errors import ConfigError
from eventchain.urls import without_password

if TYPE_CHECKING:
    from eventchain.contracts.chain_store import ChainStore

__all__ = ["open_chain_store"]


def open_chain_store(url: str, create: bool = False) -> ChainStore:
    """Open the chain store at ``url``: ``sqlite:///chain.db`` (relative), ``sqlite:////var/lib/chain.db``,
    ``postgresql://user@host/database`` (which must be there).

    A space may stand in the path as it is; ``%`` starts an escape of two hex digits. With ``create`` the
    store is made where there is none yet; an existing one is opened as it is. Raises ConfigError for a URL
    that names no kind of chain store, StoreError when the store cannot be opened.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from eventchain.chainstores.sql import SQLChainStore
        from eventchain.chainstores.sqlite import SQLiteDatabase

        return SQLChainStore(SQLiteDatabase(url, create))
    if scheme == "postgresql":
        from eventchain.chainstores.postgresql import PostgreSQLChainStore

        return PostgreSQLChainStore(url, create)
    raise ConfigError(
        f"no kind of chain store has the URL {without_password(url)!r}",
        hint="write it as sqlite:///chain.db or postgresql://user@host/database",
    )
