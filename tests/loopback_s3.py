"""A small S3 on loopback, so that pyarrow's own S3 client is what the tests run against.

Objects are kept in memory; a listing shows every write that has been answered, as Amazon's does since 2020. Only the
calls that pyarrow makes are known, and no signature is checked. A store can be made slow, and refuse or drop a share of
the requests.
"""

import random
import re
import socket
import struct
import threading
import time
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Store:
    """The objects of one bucket, and what was asked of them: [(method, key, query)]."""

    def __init__(self):
        self.objects, self.uploads, self.calls, self.lock = {}, {}, [], threading.Lock()
        self.spans = []  # (key, seconds when it came, seconds when it was answered) of each request
        self.refuses_uploads = False  # 403 for what would complete one, or be one
        self.delay_s = 0.0  # before each answer
        self.refused_share, self.dropped_share = 0.0, 0.0  # of the requests: 503, a connection that is reset
        self.forbidden = ()  # methods that are answered 403; LIST is that of a listing
        self.region = ""  # where the bucket lies, if not where it is asked for: 301
        self.chance = random.Random(0)


@contextmanager
def serve():
    """A running server: its store, and the environment in which s3://bucket/... is found there."""
    store = Store()

    class Handler(_Handler):
        pass

    Handler.store = store
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield store, {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def xml(self, name, inner):
        text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>'
        self.answer(200, text.encode(), Content_Type="application/xml")

    def missing(self, code="NoSuchKey"):
        self.error(404, code)

    def answered(self):
        """Answer the request, and note how long that took."""
        began = time.monotonic()
        key, query = self.asked()
        try:
            self.meet(key, query)
        finally:
            self.store.spans.append((key or query.get("prefix", ""), began, time.monotonic()))

    def meet(self, key, query):
        """The answer, or the fault that the store is told to have."""
        store = self.store
        time.sleep(store.delay_s)
        with store.lock:
            met = store.chance.random()
        if met < store.dropped_share:
            linger = struct.pack("ii", 1, 0)  # closing then sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return self.connection.close()
        if met < store.dropped_share + store.refused_share:
            self.body()
            return self.error(503, "SlowDown")
        if ("LIST" if self.command == "GET" and key == "" else self.command) in store.forbidden:
            self.body()
            return self.error(403, "AccessDenied")
        if store.region and store.region not in self.headers.get("Authorization", ""):
            self.body()
            return self.error(301, "PermanentRedirect", x_amz_bucket_region=store.region)
        if key is None:
            self.body()
            return self.missing("NoSuchBucket")
        return getattr(self, self.command.lower())(key, query)

    do_HEAD = do_GET = do_PUT = do_POST = do_DELETE = answered

    def error(self, status, code, **headers):
        body = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
        self.answer(status, body, Content_Type="application/xml", **headers)

    def asked(self):
        """Key and query of the request; None for a key in no bucket of ours."""
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        with self.store.lock:
            self.store.calls.append((self.command, key, query))
        return (key if bucket == BUCKET else None), query

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return _unchunked(data) if "aws-chunked" in self.headers.get("Content-Encoding", "") else data

    def head(self, key, query):
        if key == "":
            return self.answer(200)
        with self.store.lock:
            data = self.store.objects.get(key)
        if data is None:
            return self.missing()
        return self.answer(200, Content_Length=str(len(data)), ETag='"e"', Last_Modified=_DAY)

    def get(self, key, query):
        if key == "":
            return self.list_objects(query)
        with self.store.lock:
            data = self.store.objects.get(key)
        if data is None:
            return self.missing()
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None:
            return self.answer(200, data, ETag='"e"', Last_Modified=_DAY)
        first, last = int(span[1]), min(int(span[2]), len(data) - 1)
        place = f"bytes {first}-{last}/{len(data)}"
        return self.answer(206, data[first : last + 1], ETag='"e"', Last_Modified=_DAY, Content_Range=place)

    def list_objects(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        with self.store.lock:
            found = {key: len(data) for key, data in self.store.objects.items() if key.startswith(prefix)}
        files, folders = [], set()
        for key, size in sorted(found.items()):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                files.append(
                    f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>e</ETag>"
                    f"<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
        shown = [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        count = f"<KeyCount>{len(files) + len(shown)}</KeyCount><MaxKeys>1000</MaxKeys>"
        self.xml("ListBucketResult", head + count + "".join(files + shown))

    def put(self, key, query):
        data = self.body()
        source = self.headers.get("x-amz-copy-source")
        with self.store.lock:
            if source is not None:
                data = self.store.objects[unquote(source).lstrip("/").partition("/")[2]]
            if "partNumber" in query:
                self.store.uploads[query["uploadId"]][int(query["partNumber"])] = data
            elif not self.store.refuses_uploads:
                self.store.objects[key] = data
        if self.store.refuses_uploads and "partNumber" not in query:
            return self.error(403, "AccessDenied")
        if source is not None:
            return self.xml("CopyObjectResult", "<ETag>e</ETag>")
        return self.answer(200, ETag='"e"')

    def post(self, key, query):
        body = self.body()
        if "delete" in query:
            gone = re.findall(r"<Key>(.*?)</Key>", body.decode())
            with self.store.lock:
                for name in gone:
                    self.store.objects.pop(name, None)
            return self.xml("DeleteResult", "")
        if "uploads" in query:
            upload = uuid.uuid4().hex
            with self.store.lock:
                self.store.uploads[upload] = {}
            place = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key>"
            return self.xml("InitiateMultipartUploadResult", f"{place}<UploadId>{upload}</UploadId>")
        if self.store.refuses_uploads:
            return self.error(403, "AccessDenied")
        with self.store.lock:
            parts = self.store.uploads.pop(query["uploadId"])
            self.store.objects[key] = b"".join(parts[number] for number in sorted(parts))
        place = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key>"
        return self.xml("CompleteMultipartUploadResult", f"{place}<ETag>e</ETag>")

    def delete(self, key, query):
        with self.store.lock:
            self.store.objects.pop(key, None)
        self.answer(204)


_DAY = "Thu, 01 Jan 2026 00:00:00 GMT"


def _unchunked(data):
    """The content of a body in aws-chunked encoding: `<hex size>;...\\r\\n<bytes>\\r\\n`, until a size of 0."""
    found, place = b"", 0
    while True:
        end = data.index(b"\r\n", place)
        size = int(data[place:end].split(b";")[0], 16)
        if size == 0:
            return found
        found += data[end + 2 : end + 2 + size]
        place = end + 2 + size + 2


def waited(spans):
    """Seconds during which at least one of the requests was under way."""
    total, until = 0.0, 0.0
    for _, began, ended in sorted(spans, key=lambda span: span[1]):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total
