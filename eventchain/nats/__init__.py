"""NATS servers: what their URLs say (``urls``) and files to log in with (``logins``), connecting to them
(``client``), what goes wrong there (``failures``), headers of messages as they were sent (``headers``).

No message shows a user, a password, a token or a seed.
"""

from eventchain.errors import ConfigError

try:
    import nats  # noqa: F401  # whoever needs one of these rooms needs the library too
except ImportError as error:
    raise ConfigError(f"NATS needs a library: {error}", hint="pip install nats-py") from None
