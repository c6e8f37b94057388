"""What a store must answer, as plain Python: no disk, no loop, no batching. The oracle of test_model."""

from dataclasses import dataclass, field

__all__ = ["Model", "ModelStream"]


@dataclass
class ModelStream:
    """One stream. `ends` are the positions that a client was told."""

    ttl: int | None
    touched: float
    content: bytes = b""
    closed: bool = False
    last_seq: str | None = None
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)
    source: "ModelStream | None" = None
    forks: int = 0
    deleted: bool = False

    def is_over(self, now: float) -> bool:
        return self.ttl is not None and now >= self.touched + self.ttl


@dataclass(frozen=True)
class Sent:
    """An append as it is sent."""

    data: bytes
    close: bool
    producer: tuple[str, int, int] | None
    seq: str | None


class Model:
    """Streams by path. Every method returns the status that the store must answer with."""

    def __init__(self) -> None:
        self.streams: dict[str, ModelStream] = {}

    def find(self, path: str, now: float) -> ModelStream | None:
        stream = self.streams.get(path)
        if stream is not None and not stream.deleted and stream.is_over(now):
            self._remove(path)
        return self.streams.get(path)

    def create(self, path: str, now: float, ttl: int | None, data: bytes, closed: bool) -> int:
        stream = self.find(path, now)
        if stream is not None:
            same = (stream.ttl, stream.closed, stream.source) == (ttl, closed, None)
            return 200 if same and not stream.deleted else 409
        self.streams[path] = ModelStream(ttl, now, data, closed)
        return 201

    def fork(self, path: str, now: float, source_path: str, place: int) -> int:
        stream = self.find(path, now)
        if stream is not None:
            return 409
        source = self.find(source_path, now)
        if source is None:
            return 404
        if source.deleted:
            return 409
        if place > len(source.content):
            return 400
        source.forks += 1
        self.streams[path] = ModelStream(source.ttl, now, source.content[:place], source=source)
        return 201

    def append(self, path: str, now: float, sent: Sent) -> int:
        stream = self.find(path, now)
        if stream is None:
            return 404
        if stream.deleted:
            return 410
        verdict = self._judge_producer(stream, sent)
        if stream.closed:
            if verdict in (204, 403):
                return verdict
            return 204 if sent.producer is None and not sent.data else 409
        if verdict is not None:
            return verdict
        if sent.seq is not None and stream.last_seq is not None and sent.seq <= stream.last_seq:
            return 409
        stream.content += sent.data
        stream.closed = sent.close
        stream.touched = now
        if sent.seq is not None:
            stream.last_seq = sent.seq
        if sent.producer is not None:
            name, epoch, number = sent.producer
            stream.producers[name] = (epoch, number)
        return 200 if sent.producer is not None and sent.data else 204

    @staticmethod
    def _judge_producer(stream: ModelStream, sent: Sent) -> int | None:
        if sent.producer is None:
            return None
        name, epoch, number = sent.producer
        known = stream.producers.get(name)
        if known is None or epoch > known[0]:
            if number == 0:
                return None
            return 409 if known is None else 400
        if epoch < known[0]:
            return 403
        if number <= known[1]:
            return 204
        return None if number == known[1] + 1 else 409

    def delete(self, path: str, now: float) -> int:
        stream = self.find(path, now)
        if stream is None:
            return 404
        if stream.deleted:
            return 410
        self._remove(path)
        return 204

    def _remove(self, path: str) -> None:
        stream = self.streams[path]
        if stream.forks:
            stream.deleted = True
            return
        del self.streams[path]
        source = stream.source
        if source is not None:
            source.forks -= 1
            if source.deleted and not source.forks:
                self._remove(next(path for path, each in self.streams.items() if each is source))

    def read(self, path: str, now: float) -> tuple[int, ModelStream | None]:
        stream = self.find(path, now)
        if stream is None:
            return 404, None
        if stream.deleted:
            return 410, None
        stream.touched = now
        return 200, stream
