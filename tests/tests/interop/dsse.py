"""Verifies DSSE envelopes by a library that isn't ours; reads one as JSON, prints who signed it.

The keys are those that the signatures name: did:key of Ed25519 (W3C did:key, multicodec ed25519-pub).
"""

import json
import sys

from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def public_key(did: str) -> bytes:
    prefix = "did:key:z"
    assert did.startswith(prefix), did
    number = 0
    for digit in did[len(prefix):]:
        number = number * 58 + ALPHABET.index(digit)
    decoded = number.to_bytes(34, "big")
    assert decoded[:2] == b"\xed\x01", "not an Ed25519 key"
    return decoded[2:]


envelope = Envelope.from_dict(json.load(sys.stdin))
names = list(envelope.signatures)
keys = [SSlibKey(name, "ed25519", "ed25519", {"public": public_key(name).hex()}) for name in names]
accepted = envelope.verify(keys, len(keys))
print(json.dumps({"type": envelope.payload_type, "signers": sorted(accepted)}))
