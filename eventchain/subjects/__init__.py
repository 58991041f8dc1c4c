"""Encryption under a key for each subject: a person, a customer, whoever may ask to be forgotten.

The payloads of a subject's events are encrypted before they are appended, so the chain seals ciphertext and
nothing about it changes. Keys lie in a store of their own, wrapped by a key that lies elsewhere. To forget a
subject is to destroy its key, after a record of that is sealed.
"""

from eventchain.subjects.encrypted import Decrypted, Encrypted
from eventchain.subjects.keys import KeyStore

__all__ = ["Decrypted", "Encrypted", "KeyStore"]
