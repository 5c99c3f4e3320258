#!/usr/bin/env python3
"""An identity provider that gives its tokens to whoever asks: for [[access.oidc]], on loopback.

    issuer.py DIRECTORY

Prints `issuer URL` when it listens. `URL/token?audience=A&sub=S` answers with a token of an hour (RS256), and with
`&key=other` with one whose signature is of a key that the issuer does not publish. The keys are made in DIRECTORY.

Standard library only, and the `openssl` program, which makes the keys and signs.
"""

import base64
import http.server
import json
import pathlib
import subprocess
import sys
import time
import urllib.parse

OPENSSL_SECONDS_MAX = 60
TOKEN_SECONDS = 3600
KEY_ID = "one"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments, stdin=b""):
    # What it writes while it looks for primes is no message.
    done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, timeout=OPENSSL_SECONDS_MAX)
    if done.returncode != 0:
        raise SystemExit(f"openssl {arguments[0]}: {done.stderr.decode()}")
    return done.stdout


def make_key(path):
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(path))


def public_key(path):
    # `Modulus=` and hexadecimal digits. The exponent is openssl's default, 65537.
    modulus = openssl("rsa", "-in", str(path), "-noout", "-modulus").decode().strip().removeprefix("Modulus=")
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY_ID, "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}


def token(key, claims):
    parts = [{"alg": "RS256", "typ": "JWT", "kid": KEY_ID}, claims]
    signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return signed + "." + base64url(openssl("dgst", "-sha256", "-sign", str(key), stdin=signed.encode()))


class Issuer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        base = f"http://127.0.0.1:{self.server.server_port}"
        if url.path == "/.well-known/openid-configuration":
            self.answer(json.dumps({"issuer": base, "jwks_uri": base + "/keys"}))
        elif url.path == "/keys":
            self.answer(json.dumps({"keys": [self.server.public]}))
        elif url.path == "/token":
            asked = dict(urllib.parse.parse_qsl(url.query))
            now = int(time.time())
            claims = {"iss": base, "aud": asked["audience"], "sub": asked["sub"], "iat": now, "exp": now + TOKEN_SECONDS}
            self.answer(token(self.server.keys[asked.get("key", "own")], claims))
        else:
            self.send_error(404)

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        server.keys = {name: directory / f"{name}.key" for name in ("own", "other")}
        for path in server.keys.values():
            make_key(path)
        server.public = public_key(server.keys["own"])
        print(f"issuer http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
