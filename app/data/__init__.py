"""The streamed data path: an upload's bytes into chunks of items, chunks of answers into a download's bytes.

Pure Python over iterators of bytes; it knows no database and no HTTP server. Memory stays flat: a reader
holds one chunk and one block, whatever the size of the body.
"""

from app.data.chunks import ItemChunk, Limits, pack, unpack
from app.data.codings import Coding, coding_of_accept_encoding, compress, decompress
from app.data.formats import Format, format_of_accept, format_of_content_type
from app.data.reading import read_items
from app.data.transfer import Measured
from app.data.writing import write_csv, write_json, write_ndjson

__all__ = [
    "Coding",
    "Format",
    "ItemChunk",
    "Limits",
    "Measured",
    "coding_of_accept_encoding",
    "compress",
    "decompress",
    "format_of_accept",
    "format_of_content_type",
    "pack",
    "read_items",
    "unpack",
    "write_csv",
    "write_json",
    "write_ndjson",
]
