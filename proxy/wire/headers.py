"""Header fields: an immutable list of (name, value) in bytes, names in lower case (RFC 9110 section 5).

Names are compared without regard to case. How they were spelled is kept where a message was received, and only for
those who ask: some upstreams compare names exactly, so a caller's request goes on as it was spelled.

Owns validation and the HTTP/1.1 encoding. A list built by `plus` keeps its parent, so what repeats from
request to request is validated and encoded once.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

__all__ = ["Field", "Headers", "is_field_name", "is_field_value"]

Field = tuple[bytes, bytes]

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_LINE = re.compile(rb"([^:]+): ([^\r]*)\r\n")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")


def is_field_name(name: bytes) -> bool:
    """Whether `name` may be sent: a token in lower case."""
    return _NAME.fullmatch(name) is not None


def is_field_value(value: bytes) -> bool:
    """Whether `value` may be sent: no control character but tabs, no blank at its ends (RFC 9110 section 5.5)."""
    return _VALUE.fullmatch(value) is not None


class Headers:
    """Fields in the order given, repeated ones kept. Raises ValueError on a name or value not allowed on the wire.

    The repr shows names only: values may be credentials.
    """

    __slots__ = ("_encoded", "_fields", "_joined", "_parent", "_raw")

    _fields: list[Field] | None
    _encoded: bytes | None
    _joined: Mapping[bytes, bytes] | None
    _parent: "Headers | None"
    _raw: bytes | list[Field]
    """As received or given: the field lines, or the fields with their names in any case."""

    def __init__(self, items: Iterable[Field] = ()) -> None:
        fields = [(name.lower(), value) for name, value in items]
        for name, value in fields:
            if not is_field_name(name):
                raise ValueError("not a header name")
            if not is_field_value(value):
                raise ValueError(f"not a header value: {name.decode()}")
        self._fields = self._raw = fields
        self._parent = None
        self._encoded = None
        self._joined = None

    @classmethod
    def unread(cls, lines: bytes) -> "Headers":
        """Field lines as received, known to be `name: value` and CRLF each: read when they are first asked for."""
        self = cls.__new__(cls)
        self._fields = None
        self._raw = lines
        self._parent = None
        self._encoded = None
        self._joined = None
        return self

    @classmethod
    def trusted(cls, items: list[Field]) -> "Headers":
        """Fields that are known to be valid and lower-case (a parser's, or literals): taken as they are."""
        self = cls.__new__(cls)
        self._fields = self._raw = items
        self._parent = None
        self._encoded = None
        self._joined = None
        return self

    @classmethod
    def spelled(cls, items: list[Field]) -> "Headers":
        """Fields that are known to be valid, with their names in any case: found in lower case, encoded as given."""
        self = cls.__new__(cls)
        self._fields = None
        self._raw = items
        self._parent = None
        self._encoded = None
        self._joined = None
        return self

    @property
    def _items(self) -> list[Field]:
        if self._fields is None:
            self._fields = [(name.lower(), value) for name, value in self._own_spelled()]
        return self._fields

    def _own_spelled(self) -> list[Field]:
        raw = self._raw
        if isinstance(raw, bytes):
            raw = self._raw = _LINE.findall(raw)
        return raw

    def _all(self) -> list[Field]:
        return self._items if self._parent is None else self._parent._all() + self._items

    def __iter__(self) -> Iterator[Field]:
        return iter(self._all())

    def as_spelled(self) -> list[Field]:
        """The fields with their names as they were received or given."""
        own = self._own_spelled()
        return own if self._parent is None else self._parent.as_spelled() + own

    def __len__(self) -> int:
        return len(self._items) + (len(self._parent) if self._parent is not None else 0)

    def __contains__(self, name: bytes) -> bool:
        return self.get(name) is not None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._all() == other._all()

    __hash__ = None  # type: ignore[assignment]  # a list of fields, compared by value

    def __repr__(self) -> str:
        return f"<Headers {', '.join(name.decode('latin-1') for name, _ in self)}>"

    def get(self, name: bytes) -> bytes | None:
        """The first value of `name` (lower case), or None."""
        if self._fields is None and isinstance(self._raw, bytes):
            return _value_in(self._raw, name)
        if self._parent is not None and (value := self._parent.get(name)) is not None:
            return value
        for field, value in self._items:
            if field == name:
                return value
        return None

    def get_all(self, name: bytes) -> list[bytes]:
        """Every value of `name` (lower case), in order."""
        return [value for field, value in self._all() if field == name]

    def joined(self) -> Mapping[bytes, bytes]:
        """The fields by name; the values of repeated ones are joined as RFC 9110 section 5.3 says."""
        if self._joined is None:
            fields = self._all()
            joined = dict(fields)
            if len(joined) < len(fields):
                joined.clear()
                for name, value in fields:
                    joined[name] = b"%b, %b" % (joined[name], value) if name in joined else value
            self._joined = joined
        return self._joined

    def plus(self, *items: Field) -> "Headers":
        """These fields after mine; valid and lower-case already, and my own encoding is shared."""
        child = Headers.trusted(list(items))
        child._parent = self
        return child

    def without(self, names: Collection[bytes]) -> "Headers":
        """A copy that lacks every field whose name is in `names` (lower case)."""
        return Headers.trusted([field for field in self._all() if field[0] not in names])

    def encode(self) -> bytes:
        """The field lines of HTTP/1.1, each with its CRLF (RFC 9112 section 5)."""
        if self._encoded is None:
            own = b"".join([b"%b: %b\r\n" % field for field in self._own_spelled()])
            self._encoded = own if self._parent is None else self._parent.encode() + own
        return self._encoded


def _value_in(lines: bytes, name: bytes) -> bytes | None:
    """The first value of `name` in field lines, which stay unread: storage's answer to an append is asked for one."""
    begin = (b"\n" + lines.lower()).find(b"\n" + name + b": ")  # in `lines`: one byte was put in front
    if begin < 0:
        return None
    begin += len(name) + 2
    return lines[begin : lines.index(b"\r", begin)]
