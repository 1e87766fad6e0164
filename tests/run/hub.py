"""A hub for tests: the part of its HTTP API that `train get` uses, on this machine, and what goes
wrong with it in the world. Standard library only; tests/run/get.py and tests/interop/hub_cache.py use it.

A Hub serves repositories (a dictionary of path -> bytes each). Large files are served by a second
port, the CDN, behind a redirect, as the real hub does. Misbehaviour is a list of faults: each is
asked before an exchange is answered and may answer itself, or spoil the answer, and say how often."""
import hashlib
import http.server
import json
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
import urllib.parse

LARGE = 4096  # bytes from which a file is in LFS and on the CDN
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def blob_id(data):
    return sha256(data) if len(data) >= LARGE else git_sha1(data)


class Repository:
    def __init__(self, files, kind="model", commit=COMMIT, token=None, gated=False, refs=("main",)):
        self.files, self.kind, self.commit = files, kind, commit
        self.token, self.gated, self.refs = token, gated, refs

    def entry(self, path):
        data = self.files[path]
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
        if len(data) >= LARGE:
            entry["oid"] = git_sha1(b"pointer of " + path.encode())
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
        return entry


class Fault:
    """What happens to exchanges whose path has `match` in it, at most `times` times (None: always).
    `act(exchange)` answers and returns True, or changes exchange.plan and returns False."""

    def __init__(self, match, act, times=1):
        self.match, self.act, self.times, self.count = match, act, times, 0

    def wants(self, path):
        if not re.search(self.match, path) or (self.times is not None and self.count >= self.times):
            return False
        self.count += 1
        return True


# ---- faults ----

def status(code, **headers):
    """An answer without use; headers by name, with _ for -."""
    def act(exchange):
        exchange.answer(code, b"<html>%d</html>" % code,
                        {k.replace("_", "-"): v for k, v in headers.items()}, "text/html")
        return True
    return act


def cut(after):
    """The connection ends after so many bytes of the body, which was announced in full."""
    def act(exchange):
        exchange.plan["cut"] = after
        return False
    return act


def stall(after, seconds):
    """Nothing comes any more after so many bytes, for a while."""
    def act(exchange):
        exchange.plan.update(cut=after, stall=seconds)
        return False
    return act


def slow(rate):
    """Bytes a second."""
    def act(exchange):
        exchange.plan["rate"] = rate
        return False
    return act


def deaf(exchange):
    """Range is not understood."""
    exchange.plan["deaf"] = True
    return False


def unsized(exchange):
    """No Content-Length: the end of the connection is the end of the body."""
    exchange.plan["unsized"] = True
    return False


def spoil(exchange):
    """One bit is wrong."""
    exchange.plan["spoil"] = True
    return False


def closing(exchange):
    """Says keep-alive and closes the connection all the same."""
    exchange.close_connection = True
    return False


def body(data, kind="application/json", **headers):
    def act(exchange):
        exchange.answer(200, data, {k.replace("_", "-"): v for k, v in headers.items()}, kind)
        return True
    return act


def redirect(target):
    def act(exchange):
        exchange.answer(302, b"", {"Location": target(exchange) if callable(target) else target})
        return True
    return act


def hang_up(exchange):
    """A reset instead of an answer."""
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.connection.close()
    exchange.close_connection = True
    return True


def raw(data):
    """No HTTP at all, perhaps."""
    def act(exchange):
        exchange.wfile.write(data)
        exchange.close_connection = True
        return True
    return act


# ---- the server ----

class Exchange(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def log_message(self, *arguments):
        pass

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            pass

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass

    # answering

    def answer(self, code, data, headers=(), kind="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, code, error, message="no"):
        self.answer(code, json.dumps({"error": message}).encode(),
                    {"X-Error-Code": error, "X-Error-Message": message})

    def send_piece(self, data):
        if "rate" not in self.plan:
            return self.wfile.write(data)
        step = max(1, self.plan["rate"] // 20)
        for at in range(0, len(data), step):
            self.wfile.write(data[at:at + step])
            self.wfile.flush()
            time.sleep(step / self.plan["rate"])

    def send_file(self, data, headers):
        first = 0
        wanted = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        if wanted and not self.plan.get("deaf"):
            first = int(wanted.group(1))
            if first >= len(data):
                return self.answer(416, b"", {"Content-Range": "bytes */%d" % len(data)})
        self.hub.ranges.append((self.path, first))
        self.send_response(206 if first else 200)
        self.send_header("Content-Type", "application/octet-stream")
        if not self.plan.get("unsized"):
            self.send_header("Content-Length", str(len(data) - first))
        if first:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (first, len(data) - 1, len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.plan.get("unsized"):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.plan.get("spoil"):
            data = data[:-1] + bytes([data[-1] ^ 1])
        end = min(len(data), first + self.plan["cut"]) if "cut" in self.plan else len(data)
        self.send_piece(data[first:end])
        if "cut" in self.plan:
            self.wfile.flush()
            time.sleep(self.plan.get("stall", 0))
            self.close_connection = True

    # routing

    def do_GET(self):
        self.plan = {}
        self.hub = self.server.hub
        with self.hub.lock:
            self.hub.seen.append((self.server.name, self.path, self.headers.get("Authorization")))
            faults = [f for f in self.hub.faults if f.wants("%s:%s" % (self.server.name, self.path))]
        for fault in faults:
            if fault.act(self):
                return
        if self.server.name == "cdn":
            return self.from_cdn()
        self.route(urllib.parse.urlsplit(self.path))

    do_HEAD = do_GET

    def from_cdn(self):
        data = self.hub.large.get(self.path.split("?")[0].lstrip("/"))
        if data is None or "?signed" not in self.path:
            return self.answer(403, b"<Error/>", kind="application/xml")
        self.send_file(data, {"ETag": '"not-a-hash-of-ours"'})

    def route(self, url):
        api = re.match(r"/api/(model|dataset)s/(.+?)/(revision|tree)/([^/]+)$", url.path)
        short = re.match(r"/api/(model|dataset)s/([^/]+/[^/]+)$", url.path)
        file = re.match(r"/(datasets/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)$", url.path)
        if api:
            kind, name, what, revision = api.groups()
            repository = self.find(kind, name, urllib.parse.unquote(revision))
            if repository:
                (self.info if what == "revision" else self.tree)(repository, url)
        elif short:
            repository = self.find(*short.groups(), "main")
            if repository:
                self.info(repository, url)
        elif file:
            kind, name, revision, path = file.groups()
            repository = self.find("dataset" if kind else "model", name, urllib.parse.unquote(revision))
            if repository:
                self.file(repository, urllib.parse.unquote(path))
        else:
            self.refuse(404, "RepoNotFound", "Repository not found")

    def find(self, kind, name, revision):
        repository = self.hub.repositories.get(name)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if not repository or repository.kind != kind or (repository.token and token != repository.token):
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if revision not in (*repository.refs, repository.commit):
            return self.refuse(404, "RevisionNotFound", "Invalid rev id: " + revision)
        return repository

    def info(self, repository, url):
        self.answer(200, json.dumps({"id": "x", "sha": repository.commit, "private": False, "siblings": [
            {"rfilename": path} for path in repository.files]}).encode())

    def tree(self, repository, url):
        query = dict(urllib.parse.parse_qsl(url.query))
        paths, first = sorted(repository.files), int(query.get("cursor", 0))
        page = [repository.entry(path) for path in paths[first:first + self.hub.page]]
        if first == 0:
            page.insert(0, {"type": "directory", "path": "folder", "size": 0, "oid": "0" * 40})
        more = {}
        if first + self.hub.page < len(paths):  # as seen by a server behind a proxy: another host
            more["Link"] = '<https://elsewhere.invalid%s?recursive=true&cursor=%d>; rel="next"' % (
                url.path, first + self.hub.page)
        self.answer(200, json.dumps(page).encode(), more)

    def file(self, repository, path):
        if path not in repository.files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        if repository.gated:
            return self.refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo",
                               "Access to it is restricted")
        data = repository.files[path]
        headers = {"X-Repo-Commit": repository.commit, "ETag": '"%s"' % blob_id(data)}
        if len(data) < LARGE:
            return self.send_file(data, headers)
        headers.update({"X-Linked-Etag": headers.pop("ETag"), "X-Linked-Size": str(len(data)),
                        "Location": "%s/%s?signed" % (self.hub.cdn_url, sha256(data))})
        self.hub.large[sha256(data)] = data
        self.answer(302, b"", headers)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *arguments):
        pass


class Hub:
    def __init__(self, certificate=None, **repositories):
        """Names with __ for /. With a certificate (a file that holds its key too) it speaks TLS."""
        self.repositories = {name.replace("__", "/"): r for name, r in repositories.items()}
        self.faults, self.seen, self.ranges = [], [], []
        self.large, self.tokens, self.page = {}, set(), 1000
        self.lock = threading.Lock()
        self.servers = [Server(("127.0.0.1", 0), Exchange) for _ in range(2)]
        for server, name in zip(self.servers, ("hub", "cdn")):
            server.hub, server.name = self, name
            if certificate:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate)
                server.socket = context.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        scheme = "https" if certificate else "http"
        self.url, self.cdn_url = ("%s://127.0.0.1:%d" % (scheme, s.server_port) for s in self.servers)

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()
