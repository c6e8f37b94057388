"""Which slot of a cluster a key is in (Redis Cluster specification, key distribution model)."""

from collections.abc import Sequence

__all__ = ["SLOTS", "slot_of"]

SLOTS = 16_384
_POLYNOMIAL = 0x1021  # of CRC16 as XMODEM has it


def _table() -> Sequence[int]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ _POLYNOMIAL if crc & 0x8000 else crc << 1) & 0xFFFF
        table.append(crc)
    return table


_CRC = _table()


def slot_of(key: bytes) -> int:
    """The slot of a key: what is between its first braces decides, if there is anything."""
    start = key.find(b"{")
    end = key.find(b"}", start + 1)
    if start >= 0 and end > start + 1:
        key = key[start + 1 : end]
    crc = 0
    for byte in key:
        crc = (crc << 8 & 0xFFFF) ^ _CRC[crc >> 8 ^ byte]
    return crc % SLOTS
