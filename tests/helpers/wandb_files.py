"""Reading of wandb's offline files: length-prefixed protocol buffers in blocks, the log format of LevelDB."""

import json
import struct
import time

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # checksum, length, and whether whole, first, middle or last part
WHOLE, LAST = 1, 4


def records(folder):
    """Yields the records of the only offline run in a run folder, sorted."""
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert content.startswith(b":W&B")
    position, parts = 7, b""
    while position + HEADER.size <= len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _, length, kind = HEADER.unpack_from(content, position)
        position += HEADER.size + length
        parts += content[position - length : position]
        if kind in (WHOLE, LAST):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wait_for_end(folder, seconds=30):
    """Waits until a finished run is completely written, because wandb's own process may be late on a busy machine."""
    deadline = time.monotonic() + seconds
    while "exit" not in {record.WhichOneof("record_type") for record in records(folder)}:
        assert time.monotonic() < deadline, f"the run in {folder} has no end"
        time.sleep(0.1)


def items(part):
    """Names and values of a history row, a summary or a configuration; nested names are joined by slashes."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in part}


def history(folder):
    return [items(r.history.item) for r in records(folder) if r.WhichOneof("record_type") == "history"]


def run_record(folder):
    (record,) = (r.run for r in records(folder) if r.WhichOneof("record_type") == "run")
    return record


def configuration(folder):
    values = {}
    for record in records(folder):
        if record.WhichOneof("record_type") == "config":
            values |= items(record.config.update)
    return values
